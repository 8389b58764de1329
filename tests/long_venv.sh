#!/bin/sh
# Makes venv/ for tests/long: PyTorch on the CPU, transformers, safetensors, tokenizers. Does nothing if it is complete.
set -eu
cd "$(dirname "$0")/.."
[ -x venv/bin/python ] || python3 -m venv venv
if ! venv/bin/python -c 'import torch, transformers, safetensors, tokenizers, numpy, sentencepiece, regex, sklearn' 2>/dev/null; then
    venv/bin/pip install --quiet torch
    venv/bin/pip install --quiet transformers safetensors tokenizers numpy sentencepiece regex scikit-learn
fi
# llama.cpp and its own reader; llama-cpp-python compiles llama.cpp, which takes minutes once.
venv/bin/python -c 'import gguf' 2>/dev/null || venv/bin/pip install --quiet gguf
venv/bin/python -c 'import llama_cpp' 2>/dev/null || venv/bin/pip install --quiet llama-cpp-python==0.3.36 ||
    echo "llama-cpp-python could not be installed; its tests skip"
venv/bin/python -c 'import torch, transformers, tokenizers
print("torch", torch.__version__, "transformers", transformers.__version__, "tokenizers", tokenizers.__version__)'

#!/usr/bin/env python3
"""Makes the golden blocks beside this script: see origin.md. Usage: make.py, in the venv of tests/long_venv.sh."""
import os

import gguf
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
# Type -> where its fp16 scales lie in a block.
TYPES = {"F16": None, "BF16": None, "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2],
         "Q5_K": [0, 2], "Q6_K": [208]}
# Zero, both signs; subnormal, smallest normal, ordinary, largest.
SCALES = [0.0, -0.0, 2.0**-24, -(2.0**-15), 2.0**-14, 0.0123, -1.5, 65504.0]
BLOCKS = 2 * len(SCALES)


def save(name, array):
    array.tofile(os.path.join(HERE, name))


def blocks_of(kind, generator):
    qtype = gguf.GGMLQuantizationType[kind]
    count, size = gguf.GGML_QUANT_SIZES[qtype]
    if TYPES[kind] is None:
        values = generator.standard_normal(512).astype(np.float32) * np.float32(2.0) ** generator.integers(-26, 15, 512)
        return gguf.quants.quantize(values.astype(np.float32), qtype).reshape(1, -1).view(np.uint8)
    blocks = generator.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for i in range(BLOCKS):
        for n, at in enumerate(TYPES[kind]):
            blocks[i, at:at + 2] = np.array([SCALES[(i + 3 * n * (i // len(SCALES))) % len(SCALES)]], np.float16).view(np.uint8)
    return blocks


def floats_for_q8_0(generator):
    values = generator.standard_normal((16, 32)).astype(np.float32)
    values[1] = 0
    values[2] *= np.float32(1e-7)
    values[3] *= np.float32(1e-38)
    values[4] *= np.float32(1e-42)
    values[5] *= np.float32(1e30)
    values[6] = np.arange(-16, 16) / np.float32(2)  # halves, which round away from zero
    values[6, 0] = 127
    values[7] = -values[6]
    values[8, 1:] = 0
    values[9] = 127 * 65519
    values[10] = 127 * 65520
    return values


def main():
    generator = np.random.default_rng(20261124)
    for kind in TYPES:
        blocks = blocks_of(kind, generator)
        save(kind + ".blocks", blocks)
        save(kind + ".f32", gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind]).astype("<f4"))
    values = floats_for_q8_0(generator)
    save("encode.f32", values.astype("<f4"))
    with np.errstate(all="ignore"):
        save("encode.Q8_0", gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0))


if __name__ == "__main__":
    main()

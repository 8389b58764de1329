#!/usr/bin/env python3
"""limits.max_memory_bytes is kept: a job's peak stays at or under it, whatever is streamed or spilled for that, and its bytes are
those of a job with all the memory it likes. What cannot fit is refused before the start, with the least that can."""
import json
import os
import random
import re
import struct
import sys
import threading
import time

from command import load, main, pruning, run, sums
from tiny_model import build_config, build_tokenizer, save, write_text

HELPERS = ("main", "large_world", "watched", "spec_of", "least_of", "check_method", "build_config", "build_tokenizer")


def large_world(folder, layers=10, hidden=384, inner=1536):
    """A model whose weights are much larger than the process: BF16 noise of about 0.03 in three files' worth of layers."""
    source = random.Random(5)
    config = build_config(layers=layers, hidden=hidden, intermediate=inner, heads=6, kv_heads=2)
    config["torch_dtype"] = "bfloat16"
    model = os.path.join(folder, "model")
    os.makedirs(model)
    signs = bytes(0x3c if byte < 128 else 0xbc for byte in range(256))
    kv = hidden // 6 * 2
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for layer in range(layers):
        prefix = "model.layers.%d." % layer
        for name, shape in (("input_layernorm", [hidden]), ("post_attention_layernorm", [hidden]),
                            ("self_attn.q_proj", [hidden, hidden]), ("self_attn.k_proj", [kv, hidden]),
                            ("self_attn.v_proj", [kv, hidden]), ("self_attn.o_proj", [hidden, hidden]),
                            ("mlp.gate_proj", [inner, hidden]), ("mlp.up_proj", [inner, hidden]),
                            ("mlp.down_proj", [hidden, inner])):
            shapes[prefix + name + ".weight"] = shape
    header, body, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name in sorted(shapes):
        count = shapes[name][0] * (shapes[name][1] if len(shapes[name]) > 1 else 1)
        data = bytearray(2 * count)
        data[0::2] = source.randbytes(count)
        data[1::2] = source.randbytes(count).translate(signs)
        if len(shapes[name]) == 1:
            data = struct.pack("<H", 0x3f80) * count
        header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        body.append(bytes(data))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    save(model, "model.safetensors", struct.pack("<Q", len(text)) + text + b"".join(body))
    save(model, "config.json", config)
    save(model, "tokenizer.json", build_tokenizer())
    return {"model": model, "text": write_text(os.path.join(folder, "text.txt"), words=700)}


def watched(spec, out):
    """Runs a spec and looks at the process all the while; returns the highest VmHWM seen."""
    process = run(spec, out, wait=False)
    peak = 0
    drain = threading.Thread(target=process.communicate)
    drain.start()
    while process.poll() is None:
        try:
            with open("/proc/%d/status" % process.pid) as file:
                found = re.search(r"VmHWM:\s+(\d+) kB", file.read())
            peak = max(peak, int(found.group(1)) * 1024 if found else 0)
        except OSError:
            pass
        time.sleep(0.005)
    drain.join()
    assert process.returncode == 0, process.returncode
    return peak


def spec_of(w, method, limit, **more):
    spec = pruning(w, method, **more)
    spec["calibration"]["num_samples"] = 4 if method == "finercut" else 16
    spec["evaluation"]["protocols"] = ["gptq"]
    if limit:
        spec["limits"] = {"max_memory_bytes": limit}
    return spec


def least_of(w, method, folder, **more):
    _, errors = run(spec_of(w, method, 16 << 20, **more), os.path.join(folder, "refused"), expect=2)
    return int(re.search(r"/limits/max_memory_bytes: the job needs at least (\d+) bytes", errors).group(1))


def check_method(folder, method, **more):
    w = large_world(folder)
    whole = os.path.join(folder, "whole")
    peak = watched(spec_of(w, method, None, **more), whole)
    report = load(whole, "report.json")
    resources = report["resources"]
    assert not resources["weights_streamed"], resources
    assert peak <= resources["planned_memory_bytes"], (peak, resources)
    expected = sums(whole)
    least = least_of(w, method, folder, **more)
    assert least < resources["planned_memory_bytes"] * 0.8, (least, resources)
    seen = []
    for index in range(4):
        limit = least + (resources["planned_memory_bytes"] - least) * index // 3
        out = os.path.join(folder, "limit%d" % index)
        peak = watched(spec_of(w, method, limit, **more), out)
        own = load(out, "report.json")["resources"]
        assert max(peak, own["peak_rss_bytes"]) <= limit, (peak, own, limit)
        assert own["planned_memory_bytes"] <= limit and own["memory_limit_bytes"] == limit, (own, limit)
        # request.json says the limit; everything else is the same
        listed = sums(out)
        assert {p for p in expected if expected[p] != listed[p]} == {"request.json", "README.md"} & set(expected) \
            or {p for p in expected if expected[p] != listed[p]} == {"request.json"}, listed
        seen.append((own["weights_streamed"], own["states_spilled"], own["weight_bytes_read"]))
    assert seen[0][0] and not seen[-1][0], seen
    assert seen[0][2] > seen[-1][2], seen


def shortgpt_keeps_its_limit(folder):
    check_method(folder, "shortgpt")


def angles_of_all_tokens_keep_their_limit(folder):
    check_method(folder, "angular_span", parameters={"tokens": "all"})


def a_replaced_span_keeps_its_limit(folder):
    check_method(folder, "replaceme", parameters={"fit": "ridge"})


def a_rotation_keeps_its_limit(folder):
    check_method(folder, "slicegpt", target={"sparsity": 0.25})


def finercut_keeps_its_limit(folder):
    check_method(folder, "finercut", parameters={"granularity": "block"}, target={"sublayers_removed": 4})


def bfloat16_keeps_its_limit(folder):
    check_method(folder, "shortgpt", compute={"dtype": "bfloat16"})


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))

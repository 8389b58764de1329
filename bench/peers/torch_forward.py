#!/usr/bin/env python3
"""PyTorch's forward pass of a Llama folder: tokens per second, peak memory, load time.

Usage: torch_forward.py FOLDER [--dtype fp32|bf16] [--form all|transformers|linear|packed] [--threads N] [--batch B] [--length S]
                        [--logits all|last|none] [--runs N] [--check]

Three forms, each in a process of its own; one JSON object a line, the fastest carries "best": true and is what claims are held against:

transformers  LlamaForCausalLM, attention by scaled_dot_product_attention, no cache
linear        written by hand: one product for q, k and v, one for gate and up, F.rms_norm, scaled_dot_product_attention; F.linear
packed        the same, weights laid out by oneDNN beforehand (torch_packed.py); what torch.compile's frozen models run

Logits come in the dtype of the model. --check compares the logits with those of transformers. Load time is from the start of reading
to a model ready to run (imports apart); whether the file was in the page cache is for the caller to arrange. cpu_seconds is the time of all
threads: with one thread it says on a busy machine what seconds say on a quiet one; with more it counts waiting in OpenMP too.
"""
import argparse
import glob
import json
import os
import statistics
import subprocess
import sys
import time

FORMS = ("transformers", "linear", "packed")


def peak_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def inverse_frequencies(config, torch):
    d, theta, scaling = config["head_dim"], config["rope_theta"], config.get("rope_scaling")
    inverse = 1.0 / theta ** (torch.arange(0, d, 2, dtype=torch.float32) / d)
    if scaling:
        old, low, high = scaling["original_max_position_embeddings"], scaling["low_freq_factor"], scaling["high_freq_factor"]
        length = 2 * torch.pi / inverse
        smooth = ((old / length - low) / (high - low)).clamp(0, 1)
        inverse = (1 - smooth) * inverse / scaling["factor"] + smooth * inverse
    return inverse


class Hand:
    """A Llama in plain PyTorch. Shapes: hidden states [batch, length, hidden]."""

    def __init__(self, folder, torch, dtype, packed, rows):
        from safetensors import safe_open
        with open(os.path.join(folder, "config.json")) as file:
            self.config = c = json.load(file)
        self.torch, self.dtype = torch, dtype
        where = {}
        for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
            part = safe_open(path, "pt")
            where.update((name, part) for name in part.keys())

        def tensor(name):
            return where[name].get_tensor(name).to(dtype)

        def linear(names, rows=rows):
            weight = torch.cat([tensor(name) for name in names])
            if not packed:
                return lambda x: torch.nn.functional.linear(x, weight)
            from torch_packed import PackedLinear
            return PackedLinear(weight, rows)

        self.embedding = tensor("model.embed_tokens.weight")
        self.layers = []
        for i in range(c["num_hidden_layers"]):
            p = "model.layers.%d." % i
            self.layers.append((
                tensor(p + "input_layernorm.weight"),
                linear([p + "self_attn.%s_proj.weight" % x for x in "qkv"]),
                linear([p + "self_attn.o_proj.weight"]),
                tensor(p + "post_attention_layernorm.weight"),
                linear([p + "mlp.gate_proj.weight", p + "mlp.up_proj.weight"]),
                linear([p + "mlp.down_proj.weight"])))
        self.norm = tensor("model.norm.weight")
        if c["tie_word_embeddings"] and not packed:
            self.head = lambda x: torch.nn.functional.linear(x, self.embedding)
        else:
            self.head = linear(["model.embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"])
        self.inverse = inverse_frequencies(c, torch)

    def __call__(self, ids, logits):
        torch, c, f = self.torch, self.config, self.torch.nn.functional
        heads, kv_heads, d = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        batch, length = ids.shape
        hidden, ffn, epsilon = c["hidden_size"], c["intermediate_size"], c["rms_norm_eps"]
        angles = torch.outer(torch.arange(length, dtype=torch.float32), self.inverse).repeat(1, 2)
        cosine, sine = angles.cos().to(self.dtype)[:, None], angles.sin().to(self.dtype)[:, None]  # [length, 1, d]
        sine[..., :d // 2] *= -1
        x = f.embedding(ids, self.embedding)
        for norm1, qkv, out, norm2, gate_up, down in self.layers:
            y = qkv(f.rms_norm(x, (hidden,), norm1, epsilon)).view(batch, length, heads + 2 * kv_heads, d)
            turned = y[:, :, :heads + kv_heads]  # queries and keys turn in one go
            turned = torch.addcmul(turned * cosine, turned.roll(d // 2, -1), sine)
            q, k, v = turned[:, :, :heads], turned[:, :, heads:], y[:, :, heads + kv_heads:]
            a = f.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True)
            x = x + out(a.transpose(1, 2).reshape(batch, length, heads * d))
            y = gate_up(f.rms_norm(x, (hidden,), norm2, epsilon))
            x = x + down(f.silu(y[..., :ffn]) * y[..., ffn:])
        x = f.rms_norm(x, (hidden,), self.norm, epsilon)
        return x if logits == "none" else self.head(x if logits == "all" else x[:, -1:])


def load(folder, form, torch, dtype, rows):
    if form != "transformers":
        return Hand(folder, torch, dtype, form == "packed", rows)
    from transformers import AutoModelForCausalLM, logging
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()

    def run(ids, logits):
        if logits == "none":
            return model.model(ids, use_cache=False).last_hidden_state
        return model(ids, use_cache=False, logits_to_keep=0 if logits == "all" else 1).logits

    return run


def one_form(args):
    import torch
    if args.form == "transformers":
        import transformers  # noqa: F401  (an import is not load time)
    torch.set_num_threads(args.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    start = time.perf_counter()
    model = load(args.folder, args.form, torch, dtype, args.batch * args.length)
    load_seconds = time.perf_counter() - start
    with open(os.path.join(args.folder, "config.json")) as file:
        vocabulary = json.load(file)["vocab_size"]
    ids = torch.randint(vocabulary, (args.batch, args.length), generator=torch.Generator().manual_seed(1))
    times, cpus, first_seconds = [], [], None
    with torch.inference_mode():
        for i in range(args.runs + 1):  # the first one warms up
            begin, cpu = time.perf_counter(), time.process_time()
            result = model(ids, args.logits)
            times.append(time.perf_counter() - begin)
            cpus.append(time.process_time() - cpu)
            first_seconds = time.perf_counter() - start if i == 0 else first_seconds
            if i < args.runs:
                del result
        report = {"peer": "torch", "torch": torch.__version__, "form": args.form, "model": os.path.basename(os.path.abspath(args.folder)),
                  "dtype": args.dtype, "threads": args.threads, "batch": args.batch, "length": args.length, "logits": args.logits,
                  "seconds": round(statistics.median(times[1:]), 4), "cpu_seconds": round(statistics.median(cpus[1:]), 4),
                  "runs": [round(t, 4) for t in times[1:]],
                  "tokens_per_second": round(args.batch * args.length / statistics.median(times[1:]), 2),
                  "load_seconds": round(load_seconds, 3),
                  "load_and_first_run_seconds": round(first_seconds, 3), "peak_bytes": peak_bytes()}
        if args.check:
            del model
            golden = load(args.folder, "transformers", torch, dtype, None)(ids, args.logits)
            report["difference"] = float("%.2g" % ((result.float() - golden.float()).abs().max() / golden.float().abs().max()))
    print(json.dumps(report))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--form", choices=("all",) + FORMS, default="all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--logits", choices=("all", "last", "none"), default="all")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.form != "all":
        return one_form(args)
    lines = []
    for form in FORMS:
        output = subprocess.run([sys.executable, *sys.argv, "--form", form], stdout=subprocess.PIPE, check=True).stdout
        lines.append(json.loads(output.splitlines()[-1]))
    max(lines, key=lambda line: line["tokens_per_second"])["best"] = True
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()

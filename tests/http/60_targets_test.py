"""Several targets in one job, the gate, kept scores and a stored plan, through the service."""
import os
import shutil
import sys
import tempfile

from service import Service, Tap, require_programs
from tiny_model import build_config, build_tensors, pack_safetensors, save, write_model, write_text

require_programs()
tap = Tap()
folder = os.path.realpath(tempfile.mkdtemp(prefix="pruned-http-"))
model = write_model(os.path.join(folder, "model"), layers=4)
text = write_text(os.path.join(folder, "text.txt"))
other = write_text(os.path.join(folder, "other.txt"), seed=8)
third = write_text(os.path.join(folder, "third.txt"), seed=9)


def body(**more):
    return {"model": "file://" + model, "method": {"type": "finercut", "finercut": {"protect_ratio": 0}}, "target": {"sparsity": 0.3},
            "calibration": {"source": "file://" + text, "num_samples": 4, "window_tokens": 64},
            "evaluation": {"text": {"source": "file://" + other}, "window_tokens": 64, "speed": False}, **more}


def submit(service, request):
    answer = service.post("/v1/pruning/jobs", request)
    if not tap.equal(answer.status, 201, "submitted: %s" % answer):
        return None
    return service.wait(answer.json["id"])


def scores(service, job):
    return service.get("/v1/jobs/%s/report" % job["id"]).json["resources"]["scores"]


def sum_of(service, job, path):
    listing = service.get("/v1/jobs/%s/artifacts" % job["id"]).json["data"]
    return next((item["sha256"] for item in listing if item["path"] == path), None)


def check_sweep(service):
    job = submit(service, body(sweep={"sparsity": [0.1, 0.5]}))
    if not tap.ok(job["status"] == "succeeded", "a sweep succeeds", job["error"]):
        return job
    files = set(job["result_files"])
    wanted = {at + name for at in ("", "sparsity-0.1/", "sparsity-0.5/") for name in ("config.json", "plan.json", "README.md", "request.json")}
    tap.equal(sorted(wanted - files), [], "each target has its folder, the first the top")
    tap.equal([p["path"] for p in job["result"]["curve"]], ["sparsity-0.1", "", "sparsity-0.5"], "the curve is in the result")
    answer = service.get("/v1/jobs/%s/artifacts/sparsity-0.1/plan.json" % job["id"])
    tap.ok(answer.status == 200 and answer.json["points"], "a file of a point can be had")
    tap.equal(service.get("/v1/jobs/%s" % job["id"]).json["sweep"], {"sparsity": [0.1, 0.5], "require_packable": False},
              "the job says its sweep")
    return job


def check_scores(service, first):
    tap.equal(scores(service, first)["cache"], "miss", "the first job keeps its scores")
    job = submit(service, body(target={"sparsity": 0.2}))
    tap.ok(job["status"] == "succeeded" and scores(service, job)["cache"] == "hit", "another target finds them", job["error"])
    again = submit(service, body(sweep={"sparsity": [0.1, 0.5]}))
    tap.equal(scores(service, again)["cache"], "hit", "and the same one too")
    tap.equal(sum_of(service, again, "SHA256SUMS"), sum_of(service, first, "SHA256SUMS"), "with the same bytes")
    kept = [os.path.join(at, name) for at, _, names in os.walk(os.path.join(service.state, "scores")) for name in names]
    tap.equal(len(kept), 1, "one entry is kept")
    with open(kept[0], "r+b") as file:
        file.truncate(100)
    job = submit(service, body(target={"sparsity": 0.2}))
    tap.ok(job["status"] == "succeeded" and scores(service, job)["cache"] == "miss", "a damaged entry is not trusted", job["error"])


def check_replay(service, first):
    for path in ("plan.json", "sparsity-0.1/plan.json"):
        replay = body(method={"type": "replay", "replay": {"source": "job:%s/%s" % (first["id"], path)}})
        del replay["calibration"]
        job = submit(service, replay)
        tap.ok(job["status"] == "succeeded", "a stored plan is cut anew", job["error"])
        tap.equal(sum_of(service, job, "model.safetensors"), sum_of(service, first, "model.safetensors"), "to the same weights")
    identity = body(method={"type": "replay", "replay": {"source": "job:%s/plan.json" % first["id"]}}, output={"layout": "identity"})
    job = submit(service, identity)
    tap.ok(job["status"] == "succeeded" and job["result"]["output"]["layout"] == "identity", "or exported in another layout", job["error"])
    narrow = submit(service, body(method={"type": "wanda_sp"}, target={"sparsity": 0.2}, compensation={"type": "ls"},
                                  allocation={"type": "auto", "align": 1}))
    if tap.ok(narrow["status"] == "succeeded" and "plan.weights" in narrow["result_files"], "a narrowed model is repaired", narrow["error"]):
        job = submit(service, body(method={"type": "replay", "replay": {"source": "job:%s/plan.json" % narrow["id"]}}, target={"sparsity": 0.2}))
        tap.ok(job["status"] == "succeeded", "its plan is exported anew, with the weights beside it", job["error"])
        tap.equal(sum_of(service, job, "model.safetensors"), sum_of(service, narrow, "model.safetensors"), "to the same weights")
        os.makedirs(os.path.join(folder, "kept"))
        for name in ("plan.json", "plan.weights"):
            with open(os.path.join(folder, "kept", name), "wb") as file:
                file.write(service.get("/v1/jobs/%s/artifacts/%s" % (narrow["id"], name)).body)
        source = "file://%s/kept/plan.json" % folder
        job = submit(service, body(method={"type": "replay", "replay": {"source": source}}, target={"sparsity": 0.2}))
        tap.ok(job["status"] == "succeeded", "and from a folder", job["error"])
    for source, code in (("job:%s/nothing.json" % first["id"], "not_found"), ("job:job_00000000000000000000000000/plan.json", "not_found"),
                         ("job:" + first["id"], "not_found")):
        answer = service.post("/v1/pruning/jobs", body(method={"type": "replay", "replay": {"source": source}}))
        tap.ok(answer.status == 422 and "/method/replay/source" in str(answer.json["errors"]) and code in answer.codes,
               "refused: " + source, answer)


def check_gate(service):
    gate = {"text": {"source": "file://" + third}, "window_tokens": 64, "num_windows": 6}
    job = submit(service, body(quality_gate={**gate, "max_ratio": 1000, "on_fail": "back_off"}))
    tap.ok(job["status"] == "succeeded" and job["result"]["quality_gate"]["outcome"] == "passed", "a gate passes", job["error"])
    job = submit(service, body(quality_gate={**gate, "metric": "kl", "max": 1e-12}))
    tap.ok(job["status"] == "failed" and job["status_reason"] == "quality_gate_failed" and
           job["error"]["code"] == "quality_gate_failed" and "nats per token" in job["error"]["message"], "or fails the job, and says why",
           job["error"])
    answer = service.post("/v1/pruning/jobs", {key: value for key, value in body().items() if key != "target"})
    tap.ok(answer.status == 422 and "#/target" in str(answer.json["errors"]), "a target or a sweep is needed", answer)
    faults = {**body(layers={"skip": ["9"]}, quality_gate={**gate, "text": {"source": "file://" + other}}), "model": "tiny"}
    answer = service.post("/v1/pruning/jobs", faults)
    tap.ok(answer.status == 422 and {item["pointer"] for item in answer.json["errors"]} ==
           {"#/layers/skip/0", "#/quality_gate/max_ratio", "#/quality_gate/text/source"}, "all faults before the 201", answer)
    plan = service.post("/v1/pruning/jobs?dry_run=true", {**body(sweep={"num_layers": [3, 2]}), "model": "tiny"})
    tap.equal([p["name"] for p in plan.json["plan"]["points"]], ["sparsity-0.3", "num_layers-3", "num_layers-2"], "a dry run plans each target")
    answer = service.post("/v1/pruning/jobs", {**body(sweep={"sparsity": [0.3], "require_packable": True}), "model": "tiny"})
    tap.ok(answer.status == 422 and "#/sweep/sparsity/0" in str(answer.json["errors"]), "one name is one point", answer)


def write_experts(path):
    """A Mixtral of four experts, two of which each token is sent to."""
    write_model(path, layers=4)
    config = build_config(layers=4)
    tensors = build_tensors(config)
    for layer in range(4):
        prefix = "model.layers.%d." % layer
        gate, up, down = (tensors.pop(prefix + "mlp.%s_proj.weight" % name) for name in ("gate", "up", "down"))
        moe = prefix + "block_sparse_moe."
        tensors[moe + "gate.weight"] = ([4, 32], [0.01 * i for i in range(4 * 32)])
        for expert in range(4):
            for name, tensor in (("w1", gate), ("w3", up), ("w2", down)):
                tensors[moe + "experts.%d.%s.weight" % (expert, name)] = tensor
    save(path, "model.safetensors", pack_safetensors(tensors))
    save(path, "config.json", {**config, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4,
                               "num_experts_per_tok": 2, "sliding_window": None})
    return path


def check_layouts(service):
    """What a dry run promises of layouts and loaders, without decilm, for which 48 channels are no number."""
    for name, path in (("tiny", model), ("experts", write_experts(os.path.join(folder, "experts")))):
        registered = service.post("/v1/models", {"name": name, "source": "file://" + path})
        tap.ok(registered.status in (200, 201), "registered", registered)
    remote, stock = ["transformers (trust_remote_code)", "pruned"], ["transformers", "vllm", "pruned"]
    every, unpacked, uneven = ["uniform", "padded", "identity", "heterogeneous"], ["identity", "heterogeneous"], ["padded", "identity", "heterogeneous"]
    both = {"width": {"type": "wanda_sp"}}
    for method, name, layouts, loaders, more in (
            ({"type": "sleb"}, "tiny", every, stock, {}),
            ({"type": "cfsp"}, "tiny", uneven, remote, {}),
            ({"type": "wanda_sp"}, "tiny", every, stock, {}),
            ({"type": "wanda_sp"}, "tiny", uneven, remote, {"allocation": {"type": "global"}}),
            ({"type": "finercut"}, "tiny", unpacked, remote, {}),
            ({"type": "finercut"}, "tiny", every, stock, {"target": {"sparsity": 0.3, "require_packable": True}}),
            ({"type": "finercut"}, "tiny", unpacked, stock, {"output": {"layout": "identity"}}),
            ({"type": "cfsp"}, "tiny", uneven, stock, {"output": {"layout": "padded"}}),
            ({"type": "two_ssp"}, "tiny", unpacked, remote, {}),
            ({"type": "slicegpt"}, "tiny", every, stock, {}),
            ({"type": "minitron", "minitron": {"hidden": True}}, "tiny", ["heterogeneous"], remote, {}),
            ({"type": "combined", "combined": {**both, "depth": {"type": "finercut"}}}, "tiny", unpacked, remote, {}),
            ({"type": "combined", "combined": {**both, "depth": {"type": "shortgpt"}}}, "tiny", every, stock, {}),
            ({"type": "wanda_sp"}, "experts", ["uniform", "padded", "heterogeneous"], stock, {}),
            ({"type": "flap"}, "experts", ["heterogeneous"], remote, {})):
        plan = service.post("/v1/pruning/jobs?dry_run=true", {**body(method=method, **more), "model": name})
        tap.equal([plan.json["plan"]["layouts"], plan.json["plan"]["loaders"]], [layouts, loaders],
                  "layouts and loaders of %s of %s, %s" % (method["type"], name, more))
    for name, request, pointer in (
            ("tiny", body(method={"type": "sleb"}, target={"num_layers": 1}), "#/target/num_layers"),
            ("tiny", body(method={"type": "llm_drop", "llm_drop": {"sublayers": "attention"}}, target={"sparsity": 0.5}), "#/target/sparsity"),
            ("tiny", body(method={"type": "combined", "combined": {**both, "depth_ratio": 0.9, "depth": {"type": "sleb"}}},
                          target={"sparsity": 0.6}), "#/target/sparsity"),
            ("experts", body(method={"type": "wanda_sp"}, output={"layout": "identity"}), "#/output/layout")):
        answer = service.post("/v1/pruning/jobs?dry_run=true", {**request, "model": name})
        tap.ok(answer.status == 422 and [item["pointer"] for item in answer.json["errors"]] == [pointer],
               "what cannot be is known before the job: %s" % pointer, answer)
    for more, reader in (({"allocation": {"type": "cfsp"}}, "allocation cfsp"), ({"compensation": {"type": "ls"}}, "compensation ls"),
                         ({"allocation": {"type": "global", "cost": "milliseconds"}}, "allocation cost milliseconds")):
        request = {**body(method={"type": "magnitude_sp"}, **more), "model": "tiny"}
        del request["calibration"]
        answer = service.post("/v1/pruning/jobs?dry_run=true", request)
        tap.ok(answer.status == 422 and reader + " needs calibration text" in str(answer.json["errors"]), "who asks for text: " + reader, answer)
    request = {**body(method={"type": "magnitude_sp"}, allocation={"type": "uniform", "cost": "milliseconds"}), "model": "tiny"}
    del request["calibration"]
    answer = service.post("/v1/pruning/jobs?dry_run=true", request)
    tap.equal(answer.status, 200, "a cost that the allocation does not ask for asks for nothing: %s" % answer)


with Service(roots=[folder]) as running:
    check_layouts(running)
    done = check_sweep(running)
    check_scores(running, done)
    check_replay(running, done)
    check_gate(running)
with Service(roots=[folder], flags=["--score-cache-bytes", "0"]) as running:
    done = submit(running, body())
    tap.ok(done["status"] == "succeeded" and scores(running, done)["cache"] == "off", "without a cache nothing is kept", done["error"])
shutil.rmtree(folder)
sys.exit(tap.done())

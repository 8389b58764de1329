"""Selection jobs through the service: submission and faults, files, what is kept of the original, chains, and the methods' two names."""
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

from service import Service, Tap, program, require_programs
from tiny_model import write_model, write_text

require_programs("pruned", "pruned-worker", "prunectl")
tap = Tap()
folder = os.path.realpath(tempfile.mkdtemp(prefix="pruned-http-"))
outside = os.path.realpath(tempfile.mkdtemp(prefix="pruned-http-"))
model = write_model(os.path.join(folder, "model"), layers=4)
text = write_text(os.path.join(folder, "text.txt"))
LINES = [json.dumps({"id": i, "instruction": "the cat %d" % (i * i), "output": ("and the dog %d ran on " % i) * (1 + i % 3)}) for i in range(30)]
LINES.insert(7, '{"instruction": "the stone",   "output": "", "id": "\\u00e9"}')
LINES.append(LINES[3])
FILES = ["SHA256SUMS", "report.html", "report.json", "request.json", "scores.jsonl", "selected.jsonl"]
STAGES = ["inspect", "read", "embed", "score", "select", "export"]


def write(path, lines):
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return path


source = write(os.path.join(folder, "records.jsonl"), LINES)


def pruning(samples=4, **more):
    return {"model": "tiny", "method": {"type": "finercut", "finercut": {"protect_ratio": 0}}, "target": {"sublayers_removed": 2},
            "calibration": {"source": "file://" + text, "num_samples": samples, "window_tokens": 64}, **more}


def selection(pruned=None, method="top_damage", budget=None, dataset=None, **more):
    body = {"model": "tiny", "dataset": {"sources": [{"source": "file://" + source}], "template": "plain", "max_tokens": 128, **(dataset or {})},
            "method": {"type": method}, "budget": budget or {"samples": 6}, **more}
    return {**body, "pruned_model": pruned} if pruned else body


def submit(service, body, kind="selection"):
    answer = service.post("/v1/%s/jobs" % kind, body)
    if not tap.ok(answer.status == 201, "a %s job is taken" % kind, answer):
        raise AssertionError(answer)
    tap.equal(answer.headers["Location"], "/v1/jobs/" + answer.json["id"], "and says where it is")
    return answer.json


def finish(service, job, name):
    job = service.wait(job["id"])
    if not tap.equal(job["status"], "succeeded", name):
        raise AssertionError(job["error"])
    return job


def artifact(service, job, path):
    return service.get("/v1/jobs/%s/artifacts/%s" % (job["id"], path)).body


def jsonl(content):
    return [json.loads(line) for line in content.decode().splitlines()]


def check_methods(service):
    answer = service.get("/v1/methods").json
    pairs = [(item["job_type"], item["name"]) for item in answer["data"]]
    tap.ok({("selection", name) for name in ("random", "longest", "top_damage")} <= set(pairs) and ("pruning", "random") in pairs,
           "methods of both types are listed", pairs)
    tap.equal(len(pairs), len(set(pairs)), "a name and its job type are one method")
    tap.ok("pruned_model" in answer["job_types"]["selection"]["properties"], "the body has a schema")
    ours = service.get("/v1/methods?job_type=selection").json
    tap.equal([(item["job_type"], item["name"]) for item in ours["data"]], [pair for pair in pairs if pair[0] == "selection"], "those of one type")
    tap.equal(ours["job_types"], answer["job_types"], "with all that stands beside them")
    for kind in ("pruning", "selection"):
        one = service.get("/v1/methods/random?job_type=" + kind)
        tap.ok(one.status == 200 and one.json["job_type"] == kind and one.json["name"] == "random", "random of %s jobs" % kind, one)
    tap.equal(service.get("/v1/methods/random").json["job_type"], "pruning", "without a type it is the first")
    damage = service.get("/v1/methods/top_damage").json
    tap.ok(damage["job_type"] == "selection" and "damage" in damage["parameters"]["properties"] and "damage" in damage["needs"],
           "a selector has parameters and needs", damage)
    wrong = service.get("/v1/methods/top_damage?job_type=pruning")
    tap.ok(wrong.status == 404 and "finercut" in wrong.json["detail"] and "longest" not in wrong.json["detail"], "no method of that type", wrong)
    for path in ("/v1/methods?job_type=healing", "/v1/methods/random?job_type="):
        unknown = service.get(path)
        tap.ok(unknown.status == 422 and unknown.codes == ["unknown_value"] and unknown.fields == ["job_type"], "no such type", unknown)


def check_faults(service):
    before = service.job_count()
    wrong = {"model": 3, "dataset": {"sources": [{"source": "file://" + source, "limit": 0}], "template": "chat", "max_tokens": 1},
             "method": {"type": "top_damages"}, "budget": {"samples": 1, "tokens": 1}, "target": {"sparsity": 0.2}}
    answer = service.post("/v1/selection/jobs", wrong)
    tap.ok(answer.status == 422, "a wrong body is refused", answer)
    tap.equal(dict(zip(answer.fields, answer.codes)),
              {"/model": "wrong_type", "/dataset/sources/0/limit": "out_of_range", "/dataset/template": "unknown_value",
               "/dataset/max_tokens": "out_of_range", "/method/type": "unknown_value", "/budget": "invalid_argument", "/target": "unknown_field"},
              "with every fault")
    nowhere = [{"source": "file://%s/x.jsonl" % folder}, {"source": "file://%s/x.jsonl" % outside}, {"source": "sha256:" + "0" * 64}]
    answer = service.post("/v1/selection/jobs", selection("nobody", embedding_model="file:///etc", dataset={"sources": nowhere}))
    tap.equal(dict(zip(answer.fields, answer.codes)),
              {"/pruned_model": "not_found", "/embedding_model": "forbidden", "/dataset/sources/0/source": "not_found",
               "/dataset/sources/1/source": "forbidden", "/dataset/sources/2/source": "not_found"}, "names that lead nowhere, all at once")
    impossible = selection(dataset={"max_tokens": 4096, "template": "custom"}, limits={"max_memory_bytes": 16777216})
    answer = service.post("/v1/selection/jobs", impossible)
    tap.ok(answer.status == 422, "what cannot be is refused before the 201 where the model is registered", answer)
    tap.equal(dict(zip(answer.fields, answer.codes)),
              {"/dataset/max_tokens": "out_of_range", "/dataset/template_full": "missing_field", "/dataset/template_lone": "missing_field",
               "/pruned_model": "missing_field", "/limits/max_memory_bytes": "out_of_memory"}, "with every fault of the plan")
    tap.equal(service.job_count(), before, "nothing was stored")
    answer = service.post("/v1/selection/jobs", {**impossible, "model": "file://" + model})
    job = service.wait(answer.json["id"])
    tap.ok(job["status"] == "failed" and job["error"]["code"] == "missing_field" and "(and 4 more)" in job["error"]["message"],
           "a model that is not registered is looked at after it", job)
    broken = write(os.path.join(folder, "broken.jsonl"), LINES[:2] + ['{"instruction": "x"}'])
    job = service.wait(submit(service, selection(method="random", dataset={"sources": [{"source": "file://" + broken}]}))["id"])
    tap.ok(job["status"] == "failed" and "broken.jsonl, line 3" in job["error"]["message"] and not job["error"]["retryable"],
           "a record that is none is named by the job", job["error"])


def check_dry_run(service):
    before = service.job_count()
    answer = service.post("/v1/selection/jobs?dry_run=true", selection("tiny"))
    plan = answer.json.get("plan", answer.json)
    tap.ok(answer.status == 200 and plan["stages"] == STAGES and
           0 < plan["memory_bytes_least"] <= plan["memory_bytes"] and plan["disk_bytes"] > 0 and plan["records_estimated"] > 0, "a dry run gives the plan", answer)
    tap.equal(service.job_count(), before, "and stores nothing")


def check_files(service, job, budget):
    listing = service.get("/v1/jobs/%s/artifacts" % job["id"]).json["data"]
    tap.equal(sorted(item["path"] for item in listing), FILES, "its files are listed")
    selected, scores = artifact(service, job, "selected.jsonl"), jsonl(artifact(service, job, "scores.jsonl"))
    by_path = {item["path"]: item for item in listing}
    tap.equal((by_path["selected.jsonl"]["sha256"], by_path["selected.jsonl"]["bytes"]), (hashlib.sha256(selected).hexdigest(), len(selected)),
              "selected.jsonl is what its checksum says")
    ranked = sorted((line for line in scores if "rank" in line), key=lambda line: line["rank"])
    tap.equal(selected, "".join(LINES[line["record"] - 1] + "\n" for line in ranked).encode(), "and lines of the data set, byte for byte")
    tap.equal(len(ranked), budget, "as many as were asked for")
    tap.equal([line["status"] for line in scores if line["status"] not in ("chosen", "not_chosen")], ["empty_response", "duplicate"],
              "what cannot be chosen says why")
    part = service.get("/v1/jobs/%s/artifacts/selected.jsonl" % job["id"], headers={"Range": "bytes=5-20"})
    tap.ok(part.status == 206 and part.body == selected[5:21], "a range of it", part)
    with tarfile.open(fileobj=io.BytesIO(service.get("/v1/jobs/%s/archive" % job["id"]).body)) as archive:
        members = {item.name.split("/")[-1]: archive.extractfile(item).read() for item in archive.getmembers() if item.isfile()}
    tap.ok(sorted(members) == FILES and members["selected.jsonl"] == selected, "the archive has them all", sorted(members))
    page = service.get("/v1/jobs/%s/report.html" % job["id"])
    tap.ok(page.status == 200 and b"</html>" in page.body and b"records.jsonl" in page.body, "the report is a page", page)
    return scores


def check_strangers(service, parent):
    """What was measured of the model is not for jobs with a model that our exporter did not make of it, nor for those of another one."""
    copy, sentences = os.path.join(folder, "copy"), os.path.join(folder, "sentences")
    with tarfile.open(fileobj=io.BytesIO(service.get("/v1/jobs/%s/archive" % parent["id"]).body)) as archive:
        for member in archive.getmembers():
            if member.isfile():
                path = os.path.join(copy, member.name.split("/", 1)[1])
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as file:
                    file.write(archive.extractfile(member).read())
    shutil.copytree(model, sentences)
    answer = service.post("/v1/models", {"name": "second", "source": "file://" + model})
    tap.equal(answer.status, 201, "the model under another name")
    other = finish(service, submit(service, {**pruning(), "model": "second"}, "pruning"), "a pruning of that")
    for name, body in (("a copy of the pruned model's folder", selection("file://" + copy)),
                       ("an embedding model from elsewhere", selection("job:" + parent["id"], embedding_model="file://" + sentences)),
                       ("what was made of another model", selection("job:" + other["id"]))):
        job = finish(service, submit(service, body), name)
        tap.equal(service.get("/v1/jobs/%s/report" % job["id"]).json["passes"]["original"]["cache"], "miss", "finds nothing of others")
    job = finish(service, submit(service, selection("job:" + parent["id"])), "the pruned model once more")
    tap.equal(service.get("/v1/jobs/%s/report" % job["id"]).json["passes"]["original"]["cache"], "hit", "finds what was there")


def check_jobs(service):
    parent = finish(service, submit(service, pruning(), "pruning"), "a pruning job")
    first = submit(service, selection("job:" + parent["id"], name="what heals", metadata={"a": "b"}))
    tap.equal((first["type"], first["object"], first["pruned_model"], first["name"], first["method"]["top_damage"]["damage"]),
              ("selection", "selection.job", "job:" + parent["id"], "what heals", "jsd"), "the job shows its request, defaults filled in")
    first = finish(service, first, "a selection")
    tap.equal([step["name"] for step in first["steps"]], STAGES, "its steps are those of the plan")
    tap.equal((first["result"]["budget"]["records"], first["result"]["method"]), (6, "top_damage"), "its result")
    scores = check_files(service, first, 6)
    tap.ok(all(line["damage"] > 0 for line in scores if "score" in line), "the pruned model differs")

    report = service.get("/v1/jobs/%s/report" % first["id"]).json
    tap.equal(report["passes"]["original"]["cache"], "miss", "the original was measured")
    for body, wanted in ((selection("job:" + parent["id"], budget={"fraction": 0.5}), "hit"), (selection("job:" + parent["id"], seed=5), "hit"),
                         (selection("job:" + parent["id"], dataset={"max_tokens": 20}), "miss")):
        job = finish(service, submit(service, body), "another one of the same models")
        tap.equal(service.get("/v1/jobs/%s/report" % job["id"]).json["passes"]["original"]["cache"], wanted, "it was a " + wanted)
    other = finish(service, submit(service, dict(pruning(), target={"sublayers_removed": 1}), "pruning"), "another pruning of the same model")
    job = finish(service, submit(service, selection("job:" + other["id"])), "a selection for it")
    tap.equal(service.get("/v1/jobs/%s/report" % job["id"]).json["passes"]["original"]["cache"], "hit",
              "another pruned form of the model reuses what was measured of it")
    check_strangers(service, parent)
    same = finish(service, submit(service, selection("tiny")), "the original against itself")
    tap.equal({line["damage"] for line in jsonl(artifact(service, same, "scores.jsonl")) if "score" in line}, {0}, "has no damage")

    blob = service.upload(("\n".join(LINES) + "\n").encode())
    job = finish(service, submit(service, selection("job:" + parent["id"], dataset={"sources": [{"source": "sha256:" + blob, "name": "up"}]})),
                 "an uploaded data set")
    tap.equal(artifact(service, job, "selected.jsonl"), artifact(service, first, "selected.jsonl"), "gives the same records")
    job = finish(service, submit(service, selection(method="random", dataset={"sources": [{"source": "job:%s/selected.jsonl" % first["id"]}]})),
                 "what was selected can be selected from")
    tap.equal(sorted(artifact(service, job, "selected.jsonl").splitlines()), sorted(artifact(service, first, "selected.jsonl").splitlines()),
              "in the same words")

    listed = [item["id"] for item in service.get("/v1/selection/jobs?limit=100").json["data"]]
    tap.ok(first["id"] in listed and parent["id"] not in listed, "selection jobs are listed by type")
    tap.ok(first["id"] not in [item["id"] for item in service.get("/v1/pruning/jobs?limit=100").json["data"]], "and only there")
    by_method = service.get("/v1/jobs?limit=100&method=top_damage").json["data"]
    tap.ok(by_method and {item["type"] for item in by_method} == {"selection"}, "and by method")
    answer = service.post("/v1/evaluation/jobs", {"model": "job:" + first["id"], "evaluation": {"text": {"source": "file://" + text}}})
    tap.ok(answer.status == 422 and answer.fields == ["/model"], "a selection leaves no model to name", answer)
    tap.equal(service.request("DELETE", "/v1/jobs/" + first["id"]).status, 204, "one can be deleted")
    tap.equal(service.get("/v1/jobs/%s/artifacts/selected.jsonl" % first["id"]).status, 404, "with its files")
    return parent


def check_chain(service):
    """The parent runs while the child is submitted."""
    parent = submit(service, pruning(samples=64, target={"sublayers_removed": 3}), "pruning")
    child = submit(service, selection("job:" + parent["id"]))
    tap.equal((child["status"], child["status_reason"]), ("validating", "waiting for " + parent["id"]), "the child waits")
    parent = finish(service, parent, "the parent")
    child = finish(service, child, "the child")
    tap.ok(child["started_at"] >= parent["finished_at"], "one after the other")
    check_files(service, child, 6)

    deep = write_model(os.path.join(folder, "deep"), layers=24)
    long_text = write_text(os.path.join(folder, "long.txt"), words=60000, seed=9)
    endless = {**pruning(), "model": "file://" + deep, "calibration": {"source": "file://" + long_text, "num_samples": 1000, "window_tokens": 128}}
    parent = submit(service, endless, "pruning")
    service.wait(parent["id"], states=("running",))
    children = [submit(service, selection("job:" + parent["id"])), submit(service, selection(embedding_model="job:" + parent["id"], method="random"))]
    service.post("/v1/jobs/%s/cancel" % parent["id"])
    for child, pointer in zip(children, ("/pruned_model", "/embedding_model")):
        child = service.wait(child["id"])
        tap.ok(child["status"] == "failed" and child["error"]["code"] == "parent_failed" and child["error"]["field"] == pointer and
               parent["id"] in child["error"]["message"] and "cancelled" in child["error"]["message"], "the parent is cancelled", child["error"])


def check_client(service, parent):
    def client(*arguments):
        return subprocess.run([program("prunectl"), "--host", "http://127.0.0.1:%d" % service.port, *arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=120)

    spec = write(os.path.join(folder, "spec.json"), [json.dumps({"type": "selection", **selection("job:" + parent["id"])})])
    done = client("--json", "submit", "-f", spec, "--wait")
    tap.equal(done.returncode, 0, "prunectl submits and waits: %s" % done.stderr.decode()[-300:])
    job = json.loads(done.stdout)
    tap.equal((job["type"], job["status"]), ("selection", "succeeded"), "to where the type says")
    out = os.path.join(folder, "out")
    done = client("download", job["id"], out)
    tap.equal(done.returncode, 0, "prunectl downloads")
    tap.equal(sorted(os.listdir(out)), FILES, "all files")
    with open(os.path.join(out, "selected.jsonl"), "rb") as file:
        tap.equal(file.read(), artifact(service, job, "selected.jsonl"), "as they are")
    methods = [line.split()[:2] for line in client("methods").stdout.decode().splitlines()]
    tap.ok(["selection", "random"] in methods and ["pruning", "random"] in methods, "prunectl tells methods of one name apart", methods)


with Service(roots=[folder]) as running_service:
    answer = running_service.post("/v1/models", {"name": "tiny", "source": "file://" + model})
    tap.equal(answer.status, 201, "a model")
    check_methods(running_service)
    check_faults(running_service)
    check_dry_run(running_service)
    ended = check_jobs(running_service)
    check_chain(running_service)
    check_client(running_service, ended)
shutil.rmtree(folder)
shutil.rmtree(outside)
sys.exit(tap.done())

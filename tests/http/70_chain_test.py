"""Jobs that use the results of others: waiting, every way it ends, and several models in one request."""
import json
import os
import shutil
import sys
import tempfile
import time

from service import ROOT, Service, Tap, require_programs
from tiny_model import write_model, write_text

require_programs()
tap = Tap()
folder = os.path.realpath(tempfile.mkdtemp(prefix="pruned-http-"))
model = write_model(os.path.join(folder, "model"), layers=4)
deep = write_model(os.path.join(folder, "deep"), layers=24)
text = write_text(os.path.join(folder, "text.txt"))
other = write_text(os.path.join(folder, "other.txt"), words=600, seed=8)
long_text = write_text(os.path.join(folder, "long.txt"), words=60000, seed=9)
records = os.path.join(folder, "records.jsonl")
with open(records, "w", encoding="ascii") as lines:
    for number in range(24):
        lines.write(json.dumps({"instruction": "%d" % number, "input": "", "output": "the dog ran on a hill %d" % (number * number)}) + "\n")
UNKNOWN = "job:job_" + "0" * 26


def pruning(name="file://" + model, **more):
    return "/v1/pruning/jobs", {
        "model": name, "method": {"type": "finercut", "finercut": {"protect_ratio": 0}}, "target": {"sparsity": 0.2},
        "calibration": {"source": "file://" + text, "num_samples": 4, "window_tokens": 64}, **more}


def evaluation(name, **more):
    return "/v1/evaluation/jobs", {"model": name, "evaluation": {
        "text": {"source": "file://" + other}, "window_tokens": 64, "protocols": ["gptq"], "speed": False}, **more}


def selection(name, **more):
    return "/v1/selection/jobs", {"model": name, "dataset": {"sources": [{"source": "file://" + records}], "max_tokens": 128, "template": "plain"},
                                  "method": {"type": "paser"}, "budget": {"samples": 5}, **more}


def submit(service, request):
    answer = service.post(*request)
    if not tap.equal(answer.status, 201, "taken"):
        raise AssertionError(answer)
    return answer.json


def get(service, job):
    return service.get("/v1/jobs/" + job["id"]).json


def cancel(service, job):
    service.post("/v1/jobs/%s/cancel" % job["id"])
    return service.wait(job["id"])


def result_of(job):
    return "job:" + job["id"]


class Held:
    """The one slot is taken by a long search, so that what is submitted meanwhile cannot end before it is let go."""

    def __init__(self, service):
        self.service = service

    def __enter__(self):
        path, body = pruning("file://" + deep)
        body["calibration"] = {"source": "file://" + long_text, "num_samples": 1000, "window_tokens": 128}
        self.job = submit(self.service, (path, body))
        self.service.wait(self.job["id"], states=("running",))

    def __exit__(self, *_):
        cancel(self.service, self.job)


def check_waits(service, job, parent, name):
    job = get(service, job)
    tap.ok(job["status"] == "validating" and job["status_reason"] == "waiting for " + parent["id"], name + " waits", job)
    return job


def wait_for_reason(service, job, old, seconds=20):
    """Until the job's status_reason is no longer `old`, or the time is over."""
    deadline = time.monotonic() + seconds
    while get(service, job)["status_reason"] == old and time.monotonic() < deadline:
        time.sleep(0.01)


def check_ends(service, job, name):
    job = service.wait(job["id"])
    return tap.ok(job["status"] == "succeeded" and job["status_reason"] is None and job["plan"], name + " succeeds", job["error"]) and job


def check_parent_failed(service, job, parent, how, name, pointer="/model"):
    job = service.wait(job["id"])
    error = job["error"] or {}
    tap.ok(job["status"] == "failed" and job["status_reason"] == "parent_failed" and error["code"] == "parent_failed" and
           error["field"] == pointer and parent["id"] in error["message"] and how in error["message"] and not error["retryable"] and
           job["attempt"] == 0, name + " fails and says of whom", job)


def check_chain(service):
    with Held(service):
        parent = submit(service, pruning())
        child = submit(service, evaluation(result_of(parent)))
        tap.equal((child["status"], child["status_reason"]), ("validating", "waiting for " + parent["id"]), "the answer says so")
        middle = submit(service, pruning(result_of(parent), target={"sublayers_removed": 1}))
        last = submit(service, evaluation(result_of(middle)))
        chosen = submit(service, selection("file://" + model, pruned_model=result_of(parent)))
        before = check_waits(service, child, parent, "an evaluation")
        check_waits(service, chosen, parent, "a selection job")
        check_waits(service, middle, parent, "a pruning job")
        check_waits(service, last, middle, "what waits for one that waits")
        dry = service.post("/v1/evaluation/jobs?dry_run=true", evaluation(result_of(parent))[1])
        tap.ok(dry.status == 422 and dry.codes == ["conflict"] and dry.fields == ["/model"] and parent["id"] in str(dry.json),
               "a dry run cannot wait, and says so", dry)
        answer = service.post("/v1/evaluation/jobs", evaluation(UNKNOWN)[1])
        tap.ok(answer.status == 422 and answer.codes == ["not_found"] and answer.fields == ["/model"], "an unknown job is refused", answer)
        tag = service.get("/v1/jobs/" + child["id"]).headers["ETag"]
        unchanged = service.get("/v1/jobs/%s?wait=1&until=change" % child["id"], headers={"If-None-Match": tag})
        tap.ok(unchanged.status == 304 and get(service, child) == before, "waiting changes nothing", unchanged)
        listed = [job["id"] for job in service.get("/v1/selection/jobs").json["data"]]
        tap.equal(listed, [chosen["id"]], "selection jobs have a list")
    parent = check_ends(service, parent, "the parent")
    child = check_ends(service, child, "the child")
    last = check_ends(service, last, "the last of three")
    chosen = check_ends(service, chosen, "the selection")
    if chosen:
        lines = service.get("/v1/jobs/%s/artifacts/selected.jsonl" % chosen["id"])
        tap.ok(lines.status == 200 and len(lines.body.splitlines()) == 5 and lines.headers["Content-Type"] == "application/x-ndjson",
               "it chose for the pruned model", lines)
    if parent and child and last:
        tap.ok(child["started_at"] >= parent["finished_at"], "one after the other")
        first, second = (item["result"]["size"] for item in (parent, get(service, middle)))
        tap.equal(second["before"], first["after"], "the second began with what the first had left")
        answer = service.post(*evaluation(result_of(child)))
        tap.ok(answer.status == 422 and answer.codes == ["invalid_argument"] and answer.fields == ["/model"] and
               child["id"] in str(answer.json), "an evaluation leaves no model to name", answer)
        for path in ("report", "report.html", "archive", "artifacts/SHA256SUMS"):
            tap.equal(service.get("/v1/jobs/%s/%s" % (child["id"], path)).status, 200, "but it has its " + path)
    messages = [item["message"] for item in service.get("/v1/jobs/%s/events" % child["id"]).json["data"]]
    tap.ok("accepted, validating" in messages and "validated and queued" in messages, "its log tells", messages)


def check_many(service):
    """More that wait than are looked at in one go."""
    with Held(service):
        parent = submit(service, pruning())
        service.wait(parent["id"], states=("queued",))
        waiting = [submit(service, evaluation(result_of(parent), priority=-1)) for _ in range(120)]
        free = submit(service, evaluation("file://" + model, priority=1))
        tap.equal(service.wait(free["id"], states=("queued",))["status"], "queued", "those who wait hold nobody up")
        cancel(service, parent)
        ended = [service.wait(job["id"]) for job in waiting]
        tap.equal({(job["status"], (job["error"] or {}).get("code")) for job in ended}, {("failed", "parent_failed")}, "all hear of it")
    check_ends(service, free, "and who did not wait")


def check_failures(service):
    gate = {"text": {"source": "file://" + other}, "window_tokens": 64, "num_windows": 4, "metric": "kl", "max": 1e-12}
    with Held(service):
        parent = submit(service, pruning(quality_gate=gate))
        child = submit(service, pruning(result_of(parent)))
        last = submit(service, evaluation(result_of(child)))
        check_waits(service, last, child, "a third")
    check_parent_failed(service, child, parent, "quality_gate_failed", "the child of a job that failed")
    check_parent_failed(service, last, child, "parent_failed", "and its child")
    answer = service.post("/v1/evaluation/jobs", evaluation(result_of(parent))[1])
    tap.ok(answer.status == 422 and answer.codes == ["parent_failed"] and answer.fields == ["/model"], "no new one is taken", answer)
    service.post("/v1/jobs/%s/retry" % parent["id"])
    tap.equal(service.wait(parent["id"])["status"], "failed", "the parent is tried again")
    tap.equal(get(service, child)["status"], "failed", "which is nothing to the child")

    with Held(service):
        parent = submit(service, pruning())
        child = submit(service, evaluation(result_of(parent)))
        gone = submit(service, evaluation(result_of(parent)))
        tap.equal(cancel(service, gone)["status_reason"], "cancelled_by_user", "one that waits can be cancelled")
        answer = service.request("DELETE", "/v1/jobs/" + gone["id"])
        tap.equal(answer.status, 204, "and deleted")
        check_waits(service, child, parent, "the other one")
        cancel(service, parent)
        check_parent_failed(service, child, parent, "cancelled", "the child of a job that was cancelled")
        # Both are tried again: the child waits as before.
        service.post("/v1/jobs/%s/retry" % parent["id"])
        again = service.post("/v1/jobs/%s/retry" % child["id"])
        tap.equal(again.status, 200, "a child can be tried again")
        wait_for_reason(service, child, None)
        check_waits(service, child, parent, "it")
        cancel(service, child)
    check_ends(service, parent, "a parent whose child was cancelled")
    tap.equal(get(service, child)["status"], "cancelled", "which stays so")

    with Held(service):  # between the parent's success and the child's start
        child = submit(service, evaluation(result_of(parent)))
        twice = submit(service, selection(result_of(parent), pruned_model=result_of(parent)))
        for job in (child, twice):
            service.wait(job["id"], states=("queued",))
        tap.equal(service.request("DELETE", "/v1/jobs/" + parent["id"]).status, 204, "the parent is deleted")
    ended = service.wait(child["id"])
    tap.ok(ended["status"] == "failed" and ended["error"]["code"] == "parent_failed" and "was deleted" in ended["error"]["message"],
           "and the child says so", ended)
    ended = service.wait(twice["id"])
    tap.ok(ended["error"]["field"] == "/model" and "(and 1 more)" in ended["error"]["message"], "of both models, where it has two", ended)


def check_restart(service):
    with Held(service):
        parent = submit(service, pruning())
        child = submit(service, evaluation(result_of(parent)))
        doomed = submit(service, pruning())
        orphan = submit(service, evaluation(result_of(doomed)))
        service.wait(doomed["id"], states=("queued",))
        service.kill()
        service.start()
        check_waits(service, child, parent, "after kill -9 the child")
        cancel(service, doomed)
        check_parent_failed(service, orphan, doomed, "cancelled", "the other one")
        tap.equal(service.stop(), 0, "one that waits does not hold up the end")
        service.start()
        check_waits(service, child, parent, "after a restart the child")
    check_ends(service, parent, "the parent of before")
    check_ends(service, child, "the child of before")


# ---- several models: a stub of a worker has the job type, shows what it is given, and reads it -------------------------

STUB = """#!%s
import os, sys
sys.path.insert(0, %r)
import stub_worker as stub

description = stub.describe()
members = description["job_types"]["pruning"]["body"]["members"]
beside = [{"name": name, "type": "text", "min": 1, "max": 4096} for name in ("pruned_model", "embedding_model", "source")]
description["job_types"]["selection"] = {"body": {"type": "object", "members": members + beside}}
stub.describe = lambda: description
plan_alone = stub.plan
stub.plan = lambda request: {"plan": {**plan_alone(request)["plan"], "models": request["models"]}}

class Worker(stub.Worker):
    def send(self, kind, **members):
        if kind == "result":
            models = self.order["models"]
            members["result"] = {"model": sorted(os.listdir(self.order["model"]["folder"])),
                                 "models": {uri: sorted(os.listdir(model["folder"])) for uri, model in models.items()},
                                 "registered": sorted(uri for uri, model in models.items() if model["inventory"])}
        super().send(kind, **members)

stub.Worker = Worker
stub.main()
""" % (sys.executable, os.path.join(ROOT, "tests", "torture"))


def stub_job(kind="pruning", name="file://" + model, steps=1, **more):
    return "/v1/%s/jobs" % kind, {"model": name, "method": {"type": "stub", "stub": {"steps": steps, "step_ms": 50}}, **more}


def check_models(service):
    answer = service.post(*stub_job("selection", "nobody", pruned_model="file:///etc", embedding_model="job:job_" + "0" * 26,
                                    source="file://%s/nothing" % folder, seed=1))
    tap.equal({(item["pointer"], item["code"]) for item in answer.json["errors"]},
              {("#/model", "not_found"), ("#/pruned_model", "forbidden"), ("#/embedding_model", "not_found"), ("#/source", "not_found"),
               ("#/seed", "unknown_field")}, "every fault of every model at once")
    answer = service.post(*stub_job(pruned_model="file://" + model))
    tap.ok(answer.status == 422 and answer.fields == ["/pruned_model"], "a job type has the models of its body", answer)
    answer = service.post("/v1/models", {"name": "tiny", "source": "file://" + model})
    tap.equal(answer.status, 201, "registered")
    held = submit(service, stub_job(steps=100000))
    service.wait(held["id"], states=("running",))
    first, between, second = submit(service, stub_job()), submit(service, stub_job(steps=100000)), submit(service, stub_job())
    one = submit(service, stub_job("selection", pruned_model=result_of(first), embedding_model=result_of(second)))
    same = submit(service, stub_job("selection", result_of(first), pruned_model=result_of(first), embedding_model="file://" + model))
    file = submit(service, stub_job("selection", "tiny", pruned_model="tiny", source=result_of(first) + "/report.json"))
    check_waits(service, one, first, "one of several")
    check_waits(service, same, first, "the same twice")
    check_waits(service, file, first, "a file of a result")
    quick = submit(service, stub_job("selection", "tiny", pruned_model="tiny"))
    slow = submit(service, stub_job("selection", "tiny", pruned_model="file://" + model))
    tap.equal((quick["status"], slow["status"]), ("queued", "validating"), "the plan comes before the 201 where all are registered")
    for job in (first, between, second):
        service.wait(job["id"], states=("queued",))
    cancel(service, held)
    service.wait(first["id"])
    wait_for_reason(service, one, "waiting for " + first["id"])
    check_waits(service, one, second, "then for the second")
    cancel(service, between)
    for uri in (result_of(first), result_of(second)):
        tap.equal(service.wait(uri[4:])["status"], "succeeded", "a parent")
    files = ["model.gguf", "report.json"]
    inputs = sorted(os.listdir(model))
    for job, models, registered in ((one, {result_of(first): files, result_of(second): files}, []),
                                    (same, {result_of(first): files, "file://" + model: inputs}, []),
                                    (file, {"tiny": inputs}, ["tiny"]), (quick, {"tiny": inputs}, ["tiny"])):
        ended = check_ends(service, job, "several models")
        if ended:
            tap.equal(ended["result"], {"model": files if job is same else inputs, "models": models, "registered": registered},
                      "the worker reads them all")
            tap.equal(sorted(ended["plan"]["models"]), sorted(models), "and so does the planner")
    last = submit(service, stub_job("selection", pruned_model=result_of(second), embedding_model=result_of(submit(service, stub_job(steps=100000)))))
    for name in ("pruned_model", "embedding_model"):
        tap.ok(get(service, last)[name].startswith("job:job_"), "the job shows its " + name)
    running = get(service, last)["embedding_model"][4:]
    wait_for_reason(service, last, "waiting for " + running)  # it has been looked at; the next look is when that one ends
    service.request("DELETE", "/v1/jobs/" + second["id"])
    cancel(service, {"id": running})
    ended = service.wait(last["id"])
    tap.ok(ended["status"] == "failed" and ended["error"]["field"] == "/pruned_model" and "(and 1 more)" in ended["error"]["message"],
           "one that was deleted and one that was cancelled", ended)


with Service(roots=[folder]) as running_service:
    check_chain(running_service)
    check_many(running_service)
    check_failures(running_service)
    check_restart(running_service)
worker = os.path.join(folder, "worker.py")
with open(worker, "w", encoding="utf-8") as script:
    script.write(STUB)
os.chmod(worker, 0o755)
with Service(roots=[folder], flags=["--worker", worker]) as running_service:
    check_models(running_service)
shutil.rmtree(folder)
sys.exit(tap.done())

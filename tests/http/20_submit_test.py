"""Submitting: 201 and what it means, dry runs, idempotency, lists, long polls, ETags, cancel, retry, delete, events."""
import os
import shutil
import sys
import tempfile
import threading
import time

from service import Service, Tap, require_programs
from tiny_model import write_model, write_text

require_programs()
tap = Tap()
folder = os.path.realpath(tempfile.mkdtemp(prefix="pruned-http-"))
model = write_model(os.path.join(folder, "model"))
text = write_text(os.path.join(folder, "text.txt"))


def body(**changes):
    return {"model": "file://" + model, "method": {"type": "last_blocks"}, "target": {"num_layers": 1}, **changes}


def check_dry_run(service):
    answer = service.post("/v1/pruning/jobs?dry_run=true", body())
    tap.ok(answer.status == 200 and answer.json["object"] == "plan", "a dry run answers with the plan", answer)
    plan = answer.json["plan"]
    tap.ok(plan["memory_bytes"] > 0, "the plan states the memory it needs", plan)
    tap.equal(answer.json["request"]["target"]["num_layers"], 1, "and the resolved request")
    tap.equal(service.job_count(), 0, "a dry run stores nothing")
    answer = service.post("/v1/pruning/jobs?dry_run=maybe", body())
    tap.ok(answer.status == 422 and answer.fields == ["dry_run"], "dry_run takes a boolean", answer)


def check_submit(service):
    answer = service.post("/v1/pruning/jobs", body(name="first", metadata={"team": "edge"}))
    job = answer.json
    tap.ok(answer.status == 201 and answer.headers["Location"] == "/v1/jobs/" + job["id"], "201 and Location", answer)
    tap.ok(job["object"] == "pruning.job" and job["status"] in ("validating", "queued"), "a job of its type", job["status"])
    tap.ok(job["name"] == "first" and job["metadata"] == {"team": "edge"}, "name and metadata come back")
    tap.ok(not any(name.startswith("_") for name in job), "nothing internal is shown")
    wanted = {"id", "object", "type", "status", "stage", "created_at", "started_at", "finished_at", "progress", "steps",
              "usage", "error", "result", "result_files", "repo_id", "metadata", "links", "model", "method", "target",
              "seed", "attempt", "plan", "status_reason", "estimated_finish"}
    tap.equal(sorted(wanted - set(job)), [], "the job object is whole")
    done = service.wait(job["id"])
    tap.ok(done["status"] == "succeeded", "it succeeds", done["error"])
    tap.equal(done["progress"]["percent"], 100.0, "and stands at 100 percent")
    return done


def check_reading(service, job):
    path = "/v1/jobs/" + job["id"]
    answer = service.get(path)
    etag = answer.headers["ETag"]
    again = service.get(path, headers={"If-None-Match": etag})
    tap.ok(again.status == 304 and again.body == b"", "If-None-Match gives 304", again)
    started = time.monotonic()
    tap.equal(service.get(path + "?wait=20").status, 200, "a wait on a finished job")
    tap.ok(time.monotonic() - started < 5, "ends at once")
    answer = service.get(path + "?wait=26")
    tap.ok(answer.status == 422 and answer.code == "out_of_range" and answer.fields == ["wait"], "waits end at 25 s", answer)
    answer = service.get(path + "?wait=1&until=never")
    tap.ok(answer.status == 422 and answer.code == "unknown_value", "until is terminal or change", answer)
    for missing in ("/v1/jobs/job_" + "0" * 26, "/v1/jobs/nonsense", "/v1/jobs/job_" + "0" * 26 + "/events",
                    "/v1/jobs/job_" + "0" * 26 + "/artifacts"):
        answer = service.get(missing)
        tap.ok(answer.status == 404 and answer.code == "not_found", "404: " + missing, answer)
    events = service.get(path + "/events").json
    tap.ok(len(events["data"]) >= 3 and events["data"][0]["message"], "the job has events", events)
    seqs = [event["seq"] for event in events["data"]]
    tap.equal(seqs, sorted(seqs), "in their order")
    rest = service.get(path + "/events?after=%d&limit=1" % seqs[0]).json
    tap.ok(len(rest["data"]) == 1 and rest["data"][0]["seq"] == seqs[1] and rest["has_more"], "after and limit page them", rest)


def check_idempotency(service):
    headers = {"Idempotency-Key": "key-1"}
    first = service.post("/v1/pruning/jobs", body(seed=3), headers=headers)
    second = service.post("/v1/pruning/jobs", body(seed=3), headers=headers)
    tap.equal(second.json["id"], first.json["id"], "the same key gives the same job")
    tap.ok(second.status == 201 and second.headers.get("Idempotency-Replayed") == "true", "and says so", second)
    other = service.post("/v1/pruning/jobs", body(seed=4), headers=headers)
    tap.ok(other.status == 422 and other.code == "idempotency_mismatch" and other.fields == ["Idempotency-Key"],
           "the same key with another request is refused", other)
    ids = []

    def submit():
        ids.append(service.post("/v1/pruning/jobs", body(seed=5), headers={"Idempotency-Key": "key-2"}).json["id"])

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tap.equal(len(set(ids)), 1, "eight at once make one job")
    for job_id in {first.json["id"], ids[0]}:
        service.wait(job_id)


def check_lists(service):
    everything = service.get("/v1/jobs?limit=100").json
    ids = [job["id"] for job in everything["data"]]
    tap.ok(everything["object"] == "list" and everything["first_id"] == ids[0] and everything["last_id"] == ids[-1],
           "a list names its ends")
    paged, after = [], ""
    while True:
        answer = service.get("/v1/jobs?limit=1" + after)
        page = answer.json
        paged += [job["id"] for job in page["data"]]
        if not page["has_more"]:
            break
        tap.ok("rel=\"next\"" in answer.headers["Link"] and page["last_id"] in answer.headers["Link"], "Link leads on")
        after = "&after=" + page["last_id"]
    tap.equal(paged, ids, "paging sees each job once")
    ascending = [job["id"] for job in service.get("/v1/jobs?order=asc&limit=100").json["data"]]
    tap.equal(ascending, ids[::-1], "order=asc turns it round")
    tap.equal(service.get("/v1/evaluation/jobs").json["data"], [], "the typed list has its type only")
    tap.equal(len(service.get("/v1/pruning/jobs?status=succeeded&limit=100").json["data"]), len(ids), "status filters")
    tap.equal(service.get("/v1/jobs?status=failed,cancelled").json["data"], [], "by several")
    tap.equal(service.get("/v1/jobs?method=finercut").json["data"], [], "method filters")
    for query, code in (("limit=0", "out_of_range"), ("limit=101", "out_of_range"), ("limit=x", "wrong_type"),
                        ("order=up", "unknown_value"), ("status=done", "unknown_value"), ("after=x", "invalid_argument")):
        answer = service.get("/v1/jobs?" + query)
        tap.ok(answer.status == 422 and answer.code == code, "refused: " + query, answer)
    answer = service.get("/v1/jobs?after=job_" + "0" * 26)
    tap.ok(answer.status == 404, "after must be a job", answer)


def check_verbs(service):
    evaluation = {"model": "file://" + model,
                  "evaluation": {"text": {"source": "file://" + text}, "window_tokens": 64}}
    blocker = service.post("/v1/evaluation/jobs", evaluation).json
    tap.equal(blocker["object"], "evaluation.job", "an evaluation job")
    waiting = service.post("/v1/pruning/jobs", body(priority=-5)).json
    answer = service.request("DELETE", "/v1/jobs/" + waiting["id"])
    tap.ok(answer.status in (409, 204), "delete of a live job is 409 (204 if it was quicker)", answer)
    answer = service.post("/v1/jobs/" + waiting["id"] + "/cancel")
    tap.ok(answer.status in (200, 404, 409), "cancel answers", answer)
    if answer.status == 200:
        ended = service.wait(waiting["id"])
        tap.equal(ended["status"], "cancelled", "cancelled is cancelled")
        answer = service.post("/v1/jobs/" + waiting["id"] + "/cancel")
        tap.ok(answer.status == 409 and answer.code == "conflict", "a finished job cannot be cancelled", answer)
        answer = service.post("/v1/jobs/" + waiting["id"] + "/retry")
        tap.ok(answer.status == 200 and answer.json["status"] in ("queued", "running", "validating"), "retry starts it again",
               answer)
        tap.equal(service.wait(waiting["id"])["status"], "succeeded", "and it succeeds")
    ended = service.wait(blocker["id"])
    tap.equal(ended["status"], "succeeded", "the evaluation succeeds: %s" % ended["error"])
    answer = service.request("DELETE", "/v1/jobs/" + blocker["id"])
    tap.equal(answer.status, 204, "delete of a finished job")
    tap.equal(service.get("/v1/jobs/" + blocker["id"]).status, 404, "then it is gone")


def check_long_poll(service):
    job = service.post("/v1/pruning/jobs", body(method={"type": "finercut"}, calibration={
        "source": "file://" + text, "num_samples": 4, "window_tokens": 64})).json
    started = time.monotonic()
    done = service.get("/v1/jobs/%s?wait=25" % job["id"], timeout=40).json
    elapsed = time.monotonic() - started
    tap.ok(done["status"] == "succeeded" and elapsed < 25, "a long poll ends with the job (%.1f s)" % elapsed, done)


with Service(roots=[folder]) as running:
    check_dry_run(running)
    first_job = check_submit(running)
    check_reading(running, first_job)
    check_idempotency(running)
    check_lists(running)
    check_verbs(running)
    check_long_poll(running)
    # A parked request does not hold up the end of the service.
    parked = threading.Thread(target=lambda: running.get("/v1/jobs?limit=1"))
    parked.start()
    parked.join()
    tap.equal(running.stop(), 0, "SIGTERM ends it with 0")
shutil.rmtree(folder)
sys.exit(tap.done())

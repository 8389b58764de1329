#!/usr/bin/env python3
"""kill -9 at random moments, of the daemon or of a worker, while jobs are submitted and run on a real model.

What must hold (design section 5): no acknowledged job is lost, each key made one job, each result was published once
and is the same bytes as an undisturbed run's, a restart is ready within a second, and the poison rule never fires,
since a job whose worker died twice without a finished step is spared.

PRUNED_KILLS sets the number (60; 300 with PRUNED_LONG=1), PRUNED_SEED the random numbers.
"""
import http.client
import os
import random
import signal
import threading
import time

from harness import IS_LONG, ROOT, Refused, Service, main, percentile, promised

KILLS = int(os.environ.get("PRUNED_KILLS", "300" if IS_LONG else "60"))
SEED = int(os.environ.get("PRUNED_SEED", "1"))
DATA = os.path.join(ROOT, "tests", "skills", "data")
MODEL = os.path.join(ROOT, "tests", "skills", "model")
WAITING_LIMIT = 3  # jobs that are not over, so that the queue neither dries up nor grows


def specs():
    """Jobs of every method, short and with several resume points each."""
    body = {"model": "file://" + MODEL, "target": {"sublayers_removed": 2},
            "calibration": {"source": "file://%s/calibration.txt" % DATA, "num_samples": 4, "window_tokens": 64},
            "evaluation": {"speed": False,
                           "tasks": [{"name": "copy", "kind": "generate",
                                      "source": "file://%s/short.jsonl" % os.environ["PRUNED_TEST_FOLDER"]}]}}
    return [dict(body, method={"type": "finercut", "finercut": {}}),
            dict(body, method={"type": "finercut", "finercut": {"metric": "norm", "granularity": "block"}}),
            dict(body, method={"type": "shortgpt", "shortgpt": {}}),
            dict(body, method={"type": "random", "random": {}}, seed=7)]


def service(folder):
    """The tasks' first lines, so that an evaluation is short; and a service that may read all of it. One path for
    both services, since request.json names it."""
    tasks = os.path.join(os.path.dirname(folder), "tasks")
    os.makedirs(tasks, exist_ok=True)
    os.environ["PRUNED_TEST_FOLDER"] = tasks
    with open(os.path.join(DATA, "copy.jsonl"), encoding="utf-8") as file:
        lines = file.readlines()[:8]
    with open(os.path.join(tasks, "short.jsonl"), "w", encoding="utf-8") as file:
        file.writelines(lines)
    return Service(folder, roots=[MODEL, DATA, tasks])


class Client(threading.Thread):
    """Submits for as long as the torture lasts; a key is repeated until its answer came."""

    def __init__(self, daemon, all_specs, chance):
        super().__init__(daemon=True)
        self.daemon_service = daemon
        self.specs = all_specs
        self.chance = chance
        self.acknowledged = {}  # job id -> (key, index of its spec)
        self.is_over = False
        self.replays = 0

    def unfinished(self):
        page = self.daemon_service.request("GET", "/v1/jobs?limit=100&status=validating,queued,running", timeout=5)
        return len(page["data"])

    def submit_one(self, number):
        index = self.chance.randrange(len(self.specs))
        key = "kill-%d" % number
        tries = 0
        while True:
            tries += 1
            try:
                job = self.daemon_service.submit(self.specs[index], key, timeout=5)
                self.acknowledged[job["id"]] = (key, index)
                self.replays += tries > 1
                return
            except Refused as refused:
                if refused.status not in (500, 503):
                    raise
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.02)

    def run(self):
        number = 0
        while not self.is_over:
            try:
                if self.unfinished() >= WAITING_LIMIT:
                    time.sleep(0.05)
                    continue
            except (OSError, http.client.HTTPException, Refused):
                time.sleep(0.02)
                continue
            self.submit_one(number)
            number += 1


def may_kill_worker(daemon):
    """Not a job's worker that died twice already without a step: the third time would be poison, rightly."""
    try:
        jobs = daemon.request("GET", "/v1/jobs?limit=100&status=running", timeout=5)["data"]
    except (OSError, http.client.HTTPException, Refused):
        return False
    return all(job["crash_count"] < 2 for job in jobs)


def kill_once(daemon, chance, counts, restarts):
    time.sleep(chance.uniform(0.004, 2))
    workers = daemon.workers()
    if workers and chance.random() < 0.5 and may_kill_worker(daemon):
        try:
            os.kill(chance.choice(workers), signal.SIGKILL)
            counts["worker"] += 1
            return
        except ProcessLookupError:
            pass
    daemon.kill()
    counts["daemon"] += 1
    restarts.append(daemon.start())


def reference(folder):
    """What each spec gives when nobody disturbs it."""
    daemon = service(folder)
    daemon.start()
    results = []
    for spec in specs():
        job = daemon.wait(daemon.submit(spec)["id"], seconds=300)
        assert job["status"] == "succeeded", job["error"]
        results.append(promised(daemon.artifacts(job["id"])))
        assert "SHA256SUMS" in results[-1] and "plan.json" in results[-1], results[-1]
    assert daemon.stop() == 0
    return results


def check_jobs(daemon, client, expected):
    """Every acknowledged job: there, succeeded, once, the same bytes."""
    lost, wrong, twice, poisoned, attempts = [], [], [], [], 0
    for job_id, (key, index) in client.acknowledged.items():
        try:
            job = daemon.wait(job_id, seconds=300)
        except Refused:
            lost.append(job_id)
            continue
        attempts += job["attempt"]
        if job["status"] != "succeeded":
            (poisoned if (job["error"] or {}).get("code") == "worker_crash" else lost).append((job_id, job["error"]))
            continue
        ends = [event for event in daemon.events(job_id) if event["message"].find("succeeded") >= 0 and
                event["type"] == "status"]
        if len(ends) != 1:
            twice.append((job_id, ends))
        files = promised(daemon.artifacts(job_id))
        if files != expected[index]:
            wrong.append((job_id, [path for path in sorted(set(files) | set(expected[index]))
                                   if files.get(path) != expected[index].get(path)]))
        assert daemon.submit(specs()[index], key)["id"] == job_id, "a key made a second job"
    return lost, wrong, twice, poisoned, attempts


def listed(daemon):
    found, after = set(), None
    while True:
        page = daemon.request("GET", "/v1/jobs?limit=100" + ("&after=" + after if after else ""))
        found |= {job["id"] for job in page["data"]}
        if not page["has_more"]:
            return found
        after = page["data"][-1]["id"]


def nothing_is_lost_doubled_or_changed_by_kills(folder):
    chance = random.Random(SEED)
    undisturbed, tortured = os.path.join(folder, "undisturbed"), os.path.join(folder, "tortured")
    os.makedirs(undisturbed)
    os.makedirs(tortured)
    expected = reference(undisturbed)
    daemon = service(tortured)
    daemon.start()
    client = Client(daemon, specs(), random.Random(SEED + 1))
    counts, restarts = {"daemon": 0, "worker": 0}, []
    started = time.monotonic()
    client.start()
    for _ in range(KILLS):
        kill_once(daemon, chance, counts, restarts)
    client.is_over = True
    client.join(timeout=120)
    assert not client.is_alive(), "the client hangs"
    lost, wrong, twice, poisoned, attempts = check_jobs(daemon, client, expected)
    extra = listed(daemon) - set(client.acknowledged)
    assert daemon.stop() == 0
    load = os.getloadavg()[0]
    print("# kills: %d of the daemon, %d of workers, in %.0f s (seed %d)" %
          (counts["daemon"], counts["worker"], time.monotonic() - started, SEED))
    print("# jobs: %d acknowledged, %d of them after a repeated request, %d attempts" %
          (len(client.acknowledged), client.replays, attempts))
    print("# lost %d, published twice %d, other bytes %d, poisoned %d, jobs nobody asked for %d" %
          (len(lost), len(twice), len(wrong), len(poisoned), len(extra)))
    print("# restart to ready: median %.0f ms, 95th percentile %.0f ms, worst %.0f ms (load average %.1f)" %
          (1000 * percentile(restarts, 0.5), 1000 * percentile(restarts, 0.95), 1000 * max(restarts), load))
    assert not (lost or wrong or twice or poisoned or extra), (lost, wrong, twice, poisoned, extra)
    assert len(client.acknowledged) >= KILLS // 10, "too few jobs to mean anything"
    # A machine that others keep busy delays any start; then the typical one is judged.
    judged = max(restarts) if load < 2 * (os.cpu_count() or 1) else percentile(restarts, 0.5)
    assert judged < 1, "restart to ready took %.2f s" % judged


if __name__ == "__main__":
    main([nothing_is_lost_doubled_or_changed_by_kills])

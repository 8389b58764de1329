#!/usr/bin/env python3
"""A drain in the middle of a real job: exit 0, and the restart continues to the same bytes. A worker that is stopped
(SIGSTOP) is found by its lease. `pruned run`, interrupted, resumes to the same bytes too."""
import hashlib
import json
import os
import signal
import subprocess
import time

from harness import BUILD, ROOT, Service, main, promised

DATA = os.path.join(ROOT, "tests", "skills", "data")
MODEL = os.path.join(ROOT, "tests", "skills", "model")



def spec(prefix="file://"):
    return {"type": "pruning", "model": prefix + MODEL, "target": {"sublayers_removed": 3},
            "method": {"type": "finercut", "finercut": {}},
            "calibration": {"source": prefix + "%s/calibration.txt" % DATA, "num_samples": 32, "window_tokens": 128}}


def undisturbed(folder, *flags):
    # The second job must not find the first one's search.
    daemon = Service(folder, "--score-cache-bytes", "0", *flags, roots=[MODEL, DATA])
    daemon.start()
    job = daemon.wait(daemon.submit(spec())["id"], seconds=300)
    assert job["status"] == "succeeded", job["error"]
    return daemon, promised(daemon.artifacts(job["id"]))


def wait_for_search(daemon, job_id):
    """Until some candidates were scored."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        job = daemon.job(job_id)
        if job["stage"] == "search" and job["progress"]["step"] > 2:
            return
        assert job["status"] in ("validating", "queued", "running"), job["status"]
        time.sleep(0.005)
    raise AssertionError("the search never began")


def a_drain_in_the_middle_continues_to_the_same_bytes(folder):
    daemon, expected = undisturbed(folder)
    job_id = daemon.submit(spec())["id"]
    wait_for_search(daemon, job_id)
    started = time.monotonic()
    assert daemon.stop() == 0
    print("# drained in %.0f ms" % (1000 * (time.monotonic() - started)))
    daemon.start()
    job = daemon.wait(job_id, seconds=300)
    assert job["status"] == "succeeded" and job["crash_count"] == 0, job["error"]
    stages = [event["message"] for event in daemon.events(job_id)]
    assert any("released" in message for message in stages), stages
    assert job["usage"]["peak_rss_bytes"] > 10 << 20 and job["usage"]["cpu_seconds"] > 0.1, job["usage"]
    assert promised(daemon.artifacts(job_id)) == expected
    assert daemon.stop() == 0


def a_stopped_worker_is_replaced_and_the_bytes_are_the_same(folder):
    daemon, expected = undisturbed(folder, "--lease-ms", "3000")
    job_id = daemon.submit(spec())["id"]
    wait_for_search(daemon, job_id)
    os.kill(daemon.workers()[0], signal.SIGSTOP)
    job = daemon.wait(job_id, seconds=300)
    assert job["status"] == "succeeded" and job["attempt"] == 2, job
    assert promised(daemon.artifacts(job_id)) == expected
    assert daemon.stop() == 0


def one_thread_and_two_give_the_same_bytes(folder):
    results = []
    for threads in ("1", "2"):
        state = os.path.join(folder, threads)
        os.makedirs(state)
        daemon, files = undisturbed(state, "--threads", threads)
        results.append(files)
        assert daemon.stop() == 0
    assert results[0] == results[1]


def digests(folder):
    found = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            found[name] = hashlib.sha256(file.read()).hexdigest()
    return promised(found)


def run_foreground(folder, out, *flags):
    return subprocess.Popen([os.path.join(BUILD, "pruned"), "run", os.path.join(folder, "spec.json"), "--out", out] +
                            list(flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def an_interrupted_run_resumes_to_the_same_bytes(folder):
    with open(os.path.join(folder, "spec.json"), "w", encoding="utf-8") as file:
        json.dump(spec(""), file)
    whole, parts = os.path.join(folder, "whole"), os.path.join(folder, "parts")
    process = run_foreground(folder, whole)
    _, complaints = process.communicate(timeout=300)
    assert process.returncode == 0, complaints
    process = run_foreground(folder, parts)
    while "search" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode in (0, 3), process.returncode
    if process.returncode == 3:
        process = run_foreground(folder, parts, "--resume")
        _, complaints = process.communicate(timeout=300)
        assert process.returncode == 0, complaints
    assert digests(whole) == digests(parts)
    process = run_foreground(folder, parts)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 1 and "not empty" in complaints, complaints


if __name__ == "__main__":
    main([
        a_drain_in_the_middle_continues_to_the_same_bytes,
        a_stopped_worker_is_replaced_and_the_bytes_are_the_same,
        one_thread_and_two_give_the_same_bytes,
        an_interrupted_run_resumes_to_the_same_bytes,
    ])

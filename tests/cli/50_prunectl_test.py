#!/usr/bin/env python3
"""prunectl: each verb, and what its exit code tells. Workers are stubs."""
import json
import os
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "torture"))
from harness import BUILD, STUB, Service, main  # noqa: E402


def prunectl(daemon, *arguments, text=None):
    """(exit status, stdout, stderr)"""
    result = subprocess.run([os.path.join(BUILD, "prunectl")] + list(arguments), capture_output=True, text=True,
                            input=text, timeout=120, check=False,
                            env=dict(os.environ, PRUNED_HOST="127.0.0.1:%d" % daemon.port))
    return result.returncode, result.stdout, result.stderr


def service(folder):
    model = os.path.join(folder, "model")
    os.makedirs(model)
    daemon = Service(folder, worker=STUB, roots=[model])
    daemon.start()
    return daemon, model


def spec(model, **settings):
    return json.dumps({"type": "pruning", "model": "file://" + model, "method": {"type": "stub", "stub": settings}})


def the_exit_code_of_a_wait_tells_the_outcome(folder):
    daemon, model = service(folder)
    code, out, progress = prunectl(daemon, "submit", "-f", "-", "--wait", text=spec(model))
    assert code == 0 and "succeeded" in out and "succeeded" in progress, (code, out, progress)
    code, out, _ = prunectl(daemon, "submit", "-f", "-", "--wait", text=spec(model, behaviour="fail"))
    assert code == 1 and "numeric" in out, (code, out)
    for kind in ("selection", "evaluation"):
        other = json.dumps(dict(json.loads(spec(model)), type=kind))
        code, _, complaints = prunectl(daemon, "submit", "-f", "-", text=other)
        assert code == 1 and "this build has no %s jobs" % kind in complaints, (code, complaints)
    for kind, named in (("prunning", '"prunning"'), (3, "3"), (None, "null")):
        code, _, complaints = prunectl(daemon, "submit", "-f", "-", text=json.dumps(dict(json.loads(spec(model)), type=kind)))
        assert code == 2 and "no job type %s; there are pruning, selection, evaluation" % named in complaints, (code, complaints)
    code, job_id, _ = prunectl(daemon, "-q", "submit", "-f", "-", text=spec(model, steps=1000, step_ms=100))
    assert code == 0
    job_id = job_id.strip()
    outcome = []
    waiting = threading.Thread(target=lambda: outcome.append(prunectl(daemon, "-q", "wait", job_id)))
    waiting.start()
    daemon.wait(job_id, ("running",))
    assert prunectl(daemon, "cancel", job_id)[0] == 0
    waiting.join(timeout=60)
    assert outcome[0][:2] == (3, job_id + "\n"), outcome
    assert prunectl(daemon, "retry", job_id)[0] == 0
    assert prunectl(daemon, "cancel", job_id)[0] == 0
    assert daemon.stop() == 0
    assert prunectl(daemon, "ls")[0] == 4


def a_wait_bears_a_restart(folder):
    daemon, model = service(folder)
    job_id = daemon.submit(json.loads(spec(model, steps=30, step_ms=50)))["id"]
    daemon.flags += ["--listen", "127.0.0.1:%d" % daemon.port]
    outcome = []
    waiting = threading.Thread(target=lambda: outcome.append(prunectl(daemon, "wait", job_id)))
    waiting.start()
    daemon.wait(job_id, ("running",))
    daemon.kill()
    daemon.start()
    waiting.join(timeout=100)
    assert outcome and outcome[0][0] == 0, outcome
    assert daemon.stop() == 0


def a_download_is_whole_and_continues(folder):
    daemon, model = service(folder)
    job_id = daemon.submit(json.loads(spec(model)))["id"]
    daemon.wait(job_id)
    target = os.path.join(folder, "result")
    code, out, _ = prunectl(daemon, "download", job_id, target)
    assert code == 0 and "all hashes match" in out, out
    weights = os.path.join(target, "model.gguf")
    assert open(weights, "rb").read() == b"weights" * 1000
    with open(weights, "r+b") as file:  # damaged: it is fetched again
        file.write(b"x")
    assert prunectl(daemon, "-q", "download", job_id, target)[0] == 0
    assert open(weights, "rb").read() == b"weights" * 1000
    assert sorted(os.listdir(target)) == ["model.gguf", "report.json"]
    blobs = os.path.join(daemon.state, "blobs")
    for parent, _, names in os.walk(blobs):  # bit rot on the server must not pass as a result
        for name in names:
            path = os.path.join(parent, name)
            if os.path.getsize(path) == 7000:
                os.chmod(path, 0o600)
                with open(path, "r+b") as file:
                    file.write(b"rotten!")
    os.unlink(weights)
    code, _, complaints = prunectl(daemon, "download", job_id, target)
    assert code != 0 and not os.path.exists(weights), complaints
    assert daemon.stop() == 0


def lists_and_errors_are_readable(folder):
    daemon, model = service(folder)
    job_id = daemon.submit(json.loads(spec(model)))["id"]
    daemon.wait(job_id)
    assert prunectl(daemon, "-q", "ls")[1] == job_id + "\n"
    assert json.loads(prunectl(daemon, "--json", "ls")[1])["data"][0]["id"] == job_id
    assert json.loads(prunectl(daemon, "get", job_id)[1])["status"] == "succeeded"
    assert "stub" in prunectl(daemon, "methods")[1]
    assert prunectl(daemon, "models")[0] == 0
    code, _, complaints = prunectl(daemon, "submit", "-f", "-", text=spec(model, steps=0, behaviour="dance"))
    assert code == 1 and "steps" in complaints and "behaviour" in complaints, complaints
    assert json.loads(prunectl(daemon, "submit", "--dry-run", "-f", "-", text=spec(model))[1])["plan"]
    for wrong in ((), ("dance",), ("get",), ("submit",), ("get", "../x"), ("ls", "--frob"), ("submit", "-f", "/none")):
        assert prunectl(daemon, *wrong)[0] == 2, wrong
    assert prunectl(daemon, "get", "job_00000000000000000000000000")[0] == 1
    assert daemon.stop() == 0


if __name__ == "__main__":
    main([
        the_exit_code_of_a_wait_tells_the_outcome,
        a_wait_bears_a_restart,
        a_download_is_whole_and_continues,
        lists_and_errors_are_readable,
    ])

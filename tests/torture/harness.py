"""What the torture tests share: a service in a folder of its own, requests to it, TAP.

Nothing sleeps for luck: everything polls with a deadline.
"""
import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("PRUNED_BUILD", os.path.join(ROOT, "build"))
STUB = os.path.join(HERE, "stub_worker.py")
IS_LONG = os.environ.get("PRUNED_LONG") == "1"
TERMINAL = ("succeeded", "failed", "cancelled")


class Refused(Exception):
    """An answer with a status of 300 or more."""

    def __init__(self, status, body):
        super().__init__("%d %s" % (status, json.dumps(body)[:500]))
        self.status = status
        self.body = body


class Service:
    """`pruned serve` on a free port, and a client for it."""

    started = []  # every process, so that a failed test leaves none behind

    def __init__(self, folder, *flags, worker=None, roots=()):
        self.folder = folder
        self.state = os.path.join(folder, "state")
        self.flags = list(flags)
        for root in roots:
            self.flags += ["--root", root]
        if worker:
            self.flags += ["--worker", worker]
        self.process = None
        self.port = 0
        self.ready_seconds = None
        self.log_path = os.path.join(folder, "log")

    def start(self, seconds=60):
        """Starts it and waits until /readyz says 200; returns how long that took."""
        port_file = os.path.join(self.folder, "port")
        if os.path.exists(port_file):
            os.unlink(port_file)
        started = time.monotonic()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [os.path.join(BUILD, "pruned"), "serve", "--state", self.state, "--listen", "127.0.0.1:0",
                 "--port-file", port_file] + self.flags, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        Service.started.append(self.process)
        while True:
            if self.process.poll() is not None:
                raise AssertionError("the service ended with %d at its start:\n%s" %
                                     (self.process.returncode, self.log_tail()))
            if os.path.exists(port_file):
                with open(port_file, encoding="ascii") as file:
                    self.port = int(file.read())
                try:
                    self.request("GET", "/readyz", timeout=1)
                    break
                except (OSError, http.client.HTTPException, Refused):
                    pass
            if time.monotonic() - started > seconds:
                raise AssertionError("not ready after %d s:\n%s" % (seconds, self.log_tail()))
            time.sleep(0.002)
        self.ready_seconds = time.monotonic() - started
        return self.ready_seconds

    def log_tail(self, count=3000):
        with open(self.log_path, "rb") as file:
            return file.read()[-count:].decode(errors="replace")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, seconds=120):
        """SIGTERM; returns the exit status."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=seconds)

    def request(self, method, path, body=None, headers=None, timeout=30, raw=False):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            headers = dict(headers or {})
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
                headers["Content-Type"] = "application/json"
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            try:
                data = json.loads(data)
            except ValueError:
                data = data.decode(errors="replace")
            raise Refused(answer.status, data)
        if raw or not data:
            return data
        if "json" in answer.headers.get("Content-Type", ""):
            return json.loads(data)
        return data

    def submit(self, spec, key=None, timeout=30):
        kind = spec.get("type", "pruning")
        return self.request("POST", "/v1/%s/jobs" % kind, spec, {"Idempotency-Key": key} if key else {}, timeout)

    def job(self, job_id):
        return self.request("GET", "/v1/jobs/" + job_id)

    def wait(self, job_id, states=TERMINAL, seconds=120):
        """Polls until the job is in one of the states."""
        deadline = time.monotonic() + seconds
        job = None
        while time.monotonic() < deadline:
            job = self.job(job_id)
            if job["status"] in states:
                return job
            if job["status"] in TERMINAL:
                break
            time.sleep(0.01)
        raise AssertionError("job is %s, expected %s: %s\n%s" % (job and job["status"], states, json.dumps(job)[:800],
                                                                self.log_tail()))

    def events(self, job_id):
        found, after = [], None
        while True:
            page = self.request("GET", "/v1/jobs/%s/events?limit=100%s" %
                                (job_id, "&after=" + after if after else ""))
            found += page["data"]
            if not page["has_more"]:
                return found
            after = str(page["last_seq"])

    def workers(self):
        """Process ids of the worker processes, by the parent's children."""
        return children(self.process.pid)

    def artifacts(self, job_id):
        """{path: sha256} of a result, from the bytes that come back."""
        files = {}
        for item in self.request("GET", "/v1/jobs/%s/artifacts" % job_id)["data"]:
            data = self.request("GET", "/v1/jobs/%s/artifacts/%s" % (job_id, item["path"]), raw=True)
            files[item["path"]] = hashlib.sha256(data).hexdigest()
            assert files[item["path"]] == item["sha256"], item["path"]
        return files


def children(pid):
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid), encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        return []


def promised(files):
    """The part of a result that must be the same bytes, however often it was interrupted (design section 5)."""
    return {path: digest for path, digest in files.items() if not path.startswith("report.")}


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Folder:
    """A temporary folder; kept, with a word, if the test fails."""

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="pruned_torture_")
        return self.path

    def __exit__(self, kind, value, trace):
        for process in Service.started:
            if process.poll() is None:
                process.kill()
                process.wait()
        Service.started.clear()
        if kind is None:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            print("# left for a look: " + self.path)


def main(tests):
    """Runs functions as TAP tests; a failure prints its trace and the rest goes on."""
    print("1..%d" % len(tests))
    failed = 0
    for number, test in enumerate(tests, 1):
        name = test.__name__.replace("_", " ")
        try:
            with Folder() as folder:
                test(folder)
            print("ok %d - %s" % (number, name), flush=True)
        except Exception:  # any failure is the test's
            failed += 1
            for line in traceback.format_exc().splitlines():
                print("# " + line)
            print("not ok %d - %s" % (number, name), flush=True)
    sys.exit(1 if failed else 0)

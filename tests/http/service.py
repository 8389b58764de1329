"""The real daemon for black-box tests, by the standard library alone.

    with Service(roots=[folder]) as service:
        answer = service.post("/v1/pruning/jobs", {...})
        job = service.wait(answer.json["id"])

PRUNED_BUILD names the build folder (default: build/ beside tests/). Each service has a temporary state folder and an
ephemeral port. TAP: `tap = Tap()`, `tap.ok(condition, "sentence")`, `sys.exit(tap.done())`.
"""
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = os.path.abspath(os.environ.get("PRUNED_BUILD", os.path.join(ROOT, "build")))
TERMINAL = ("succeeded", "failed", "cancelled")
START_SECONDS = 20
SKIP = 77


def program(name="pruned"):
    return os.path.join(BUILD, name)


def require_programs(*names):
    """Ends the test as skipped when the build has not made the programs it needs."""
    for name in names or ("pruned", "pruned-worker"):
        if not os.access(program(name), os.X_OK):
            print("1..0 # SKIP no %s" % program(name))
            sys.exit(SKIP)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        """The first fault's code of a problem body; None if it is none."""
        try:
            return self.json["error"]["code"]
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def fields(self):
        """Where the faults are: JSON pointers without the '#', or field names."""
        try:
            return [item.get("pointer", item.get("field", "")).lstrip("#") for item in self.json["errors"]]
        except (ValueError, KeyError, TypeError):
            return []

    @property
    def codes(self):
        try:
            return [item["code"] for item in self.json["errors"]]
        except (ValueError, KeyError, TypeError):
            return []

    def __repr__(self):
        return "%d %r" % (self.status, self.body[:600])


class Service:
    def __init__(self, roots=(), state=None, flags=(), environment=None):
        self.temporary = state is None
        self.state = state or tempfile.mkdtemp(prefix="pruned-state-")
        self.roots, self.flags, self.environment = list(roots), list(flags), dict(environment or {})
        self.process, self.port = None, None
        self.log_path = self.state.rstrip("/") + ".log"
        self.port_file = self.state.rstrip("/") + ".port"

    def start(self):
        if os.path.exists(self.port_file):
            os.unlink(self.port_file)
        command = [program(), "serve", "--state", self.state, "--listen", "127.0.0.1:0", "--port-file", self.port_file]
        for root in self.roots:
            command += ["--root", root]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **self.environment}
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command + self.flags, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError("the daemon ended with %s:\n%s" % (self.process.returncode, self.log()[-4000:]))
            try:
                with open(self.port_file, encoding="ascii") as file:
                    self.port = int(file.read().split()[0])
                if self.get("/readyz").status == 200:
                    return self
            except (OSError, ValueError, IndexError, http.client.HTTPException):
                pass
            time.sleep(0.02)
        raise RuntimeError("the daemon was not ready in %d s:\n%s" % (START_SECONDS, self.log()[-4000:]))

    def stop(self, seconds=30):
        """SIGTERM; returns the exit status."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode if self.process is not None else None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __exit__(self, *_):
        if self.process is not None and self.stop() not in (0, -signal.SIGKILL):
            print("# the daemon ended with %s; its log ends:" % self.process.returncode)
            for line in self.log().splitlines()[-80:]:
                print("#   " + line[:300])
        if self.temporary:
            shutil.rmtree(self.state, ignore_errors=True)
            for path in (self.log_path, self.port_file):
                if os.path.exists(path):
                    os.unlink(path)

    def log(self):
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    # ---- requests ------------------------------------------------------------------------------------------

    def request(self, method, path, body=None, headers=None, timeout=60):
        """body: bytes as they are, anything else as JSON."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, bytearray)):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path, headers=None, **options):
        return self.request("GET", path, headers=headers, **options)

    def post(self, path, body=None, headers=None, **options):
        return self.request("POST", path, body=body, headers=headers, **options)

    def raw(self, data, timeout=10, close=False):
        """Sends bytes as they are and reads until the service closes or answers; returns what came."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            try:
                connection.sendall(data)
                if close:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            received = b""
            try:
                while True:
                    piece = connection.recv(65536)
                    if not piece:
                        break
                    received += piece
                    head, mark, rest = received.partition(b"\r\n\r\n")
                    if mark and b"content-length: " in head.lower():
                        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                        if len(rest) >= length:
                            break
            except (socket.timeout, ConnectionError):
                pass
            return received

    def raw_answer(self, data, **options):
        received = self.raw(data, **options)
        head, _, body = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1]) if lines[0].startswith("HTTP/") else 0
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip()] = value.strip()
        return Answer(status, headers, body)

    # ---- jobs ---------------------------------------------------------------------------------------------

    def wait(self, job_id, states=TERMINAL, seconds=120):
        """The job once its status is one of `states`, by long polls."""
        deadline = time.monotonic() + seconds
        etag = None
        while True:
            headers = {"If-None-Match": etag} if etag else {}
            answer = self.get("/v1/jobs/%s?wait=5&until=change" % job_id, headers=headers)
            if answer.status == 200:
                etag = answer.headers["ETag"]
                job = answer.json
                if job["status"] in states:
                    return job
                if job["status"] in TERMINAL:
                    raise AssertionError("the job ended as %s: %s" % (job["status"], job["error"]))
            elif answer.status != 304:
                raise AssertionError("GET job: %r" % answer)
            if time.monotonic() > deadline:
                raise AssertionError("the job is not %s after %d s: %s" % (states, seconds, answer))

    def upload(self, content):
        """PUT of a blob; returns its hex digest."""
        digest = hashlib.sha256(content).hexdigest()
        answer = self.request("PUT", "/v1/blobs/sha256:" + digest, body=content)
        assert answer.status in (200, 201), answer
        return digest

    def job_count(self):
        """All jobs that are stored, over every page."""
        count, after = 0, ""
        while True:
            page = self.get("/v1/jobs?limit=100" + after).json
            count += len(page["data"])
            if not page["has_more"]:
                return count
            after = "&after=" + page["last_id"]


class Tap:
    """One line per check. Diagnostics of a failure go to stdout behind '#'."""

    def __init__(self):
        self.count, self.failed = 0, 0

    def ok(self, condition, name, detail=None):
        self.count += 1
        self.failed += not condition
        print("%sok %d - %s" % ("" if condition else "not ", self.count, name), flush=True)
        if not condition and detail is not None:
            for line in str(detail).splitlines()[:40]:
                print("#   " + line, flush=True)
        return bool(condition)

    def equal(self, got, wanted, name):
        return self.ok(got == wanted, name, "got %r, wanted %r" % (got, wanted))

    def done(self):
        print("1..%d" % self.count, flush=True)
        return 1 if self.failed else 0

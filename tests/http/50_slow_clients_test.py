"""Slow, silent and vanished clients: none of them may take the service from the others."""
import os
import select
import shutil
import socket
import sys
import tempfile
import threading
import time

from service import Service, Tap, require_programs
from tiny_model import write_model, write_text

require_programs()
tap = Tap()
folder = os.path.realpath(tempfile.mkdtemp(prefix="pruned-slow-"))
model = write_model(os.path.join(folder, "model"))
text = write_text(os.path.join(folder, "text.txt"), words=60000)
SLOW = 200
PARKED = 200


def connect(service, data):
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=30)
    connection.sendall(data)
    return connection


def gauge(service, name):
    for line in service.get("/metrics").body.decode().splitlines():
        if line.startswith(name + " "):
            return float(line.split(" ")[1])
    return None


def settled(read, wanted, seconds=15):
    deadline = time.monotonic() + seconds
    while read() != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return read()


def quantile(samples, share):
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * share))]


def check_dripping_headers(service):
    """A byte a second each: MHD's own timeout would never end them."""
    started = time.monotonic()
    sockets = [connect(service, b"GET /livez HTTP/1.1\r\nX-Slow: ") for _ in range(SLOW)]
    waiting = {connection.fileno(): connection for connection in sockets}
    latencies = []
    ended = []
    while waiting and time.monotonic() - started < 25:
        readable, _, _ = select.select(list(waiting), [], [], 0)
        for fd in readable:
            ended.append(time.monotonic() - started)
            waiting.pop(fd).close()
        for connection in list(waiting.values()):
            try:
                connection.send(b"a")
            except OSError:
                pass
        before = time.monotonic()
        tap_status = service.get("/livez").status
        latencies.append(time.monotonic() - before)
        if tap_status != 200:
            tap.ok(False, "livez while headers drip")
        time.sleep(0.2)
    tap.ok(len(ended) == SLOW and max(ended) < 16 and min(ended) > 8,
           "%d dripping headers are cut after 10 s (%.1f to %.1f s)" % (len(ended), min(ended, default=0), max(ended, default=0)))
    tap.ok(quantile(latencies, 0.9) < 0.5, "others are served meanwhile (90 %% within %.0f ms)" % (1000 * quantile(latencies, 0.9)))
    tap.ok(gauge(service, "pruned_http_cut_total") >= SLOW, "and the cuts are counted")


def check_left(service):
    """Clients that go in the middle of a header or a body, at moments of their own."""
    head = b"PUT /v1/blobs/sha256:%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" % (b"1" * 64)
    for size in (0, 1, 100, 5000, 40000):
        for pause in (0, 0.01):
            connection = connect(service, head)
            time.sleep(pause)
            connection.sendall(b"x" * size)
            connection.close()
            connect(service, head[:30]).close()
    left = settled(lambda: len(os.listdir(os.path.join(service.state, "tmp"))), 0)
    tap.equal(left, 0, "uploads that break off leave nothing in tmp/")
    tap.ok(settled(lambda: gauge(service, "pruned_http_connections") <= 3, True), "nor open connections")
    with connect(service, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") as connection:
        connection.shutdown(socket.SHUT_WR)
        tap.ok(connection.recv(65536).startswith(b"HTTP/1.1 200"), "a half-closed client whose request is whole is answered")


def check_parked(service):
    """Long polls cost no thread; those whose client has gone are let go when they end."""
    body = {"model": "file://" + model, "method": {"type": "finercut"}, "target": {"num_layers": 1},
            "calibration": {"source": "file://" + text, "num_samples": 400, "window_tokens": 128}}
    job = service.post("/v1/pruning/jobs", body).json
    path = ("GET /v1/jobs/%s?wait=25 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % job["id"]).encode()
    parked = [connect(service, path) for _ in range(PARKED)]
    count = settled(lambda: gauge(service, "pruned_http_long_polls") >= PARKED, True)
    tap.ok(count, "%d long polls are parked" % PARKED)
    before = time.monotonic()
    tap.equal(service.get("/livez").status, 200, "the probe is answered beside them")
    tap.ok(time.monotonic() - before < 1, "at once")
    for connection in parked[:50]:
        connection.close()
    tap.equal(service.post("/v1/jobs/%s/cancel" % job["id"]).status, 200, "cancel")
    before = time.monotonic()
    answers = []
    for connection in parked[50:]:
        data = b""
        while True:
            piece = connection.recv(65536)
            if not piece:
                break
            data += piece
        answers.append(b'"status":"cancelled"' in data)
        connection.close()
    tap.ok(all(answers), "all who stayed are told, in %.2f s" % (time.monotonic() - before), answers.count(False))
    tap.equal(settled(lambda: gauge(service, "pruned_http_long_polls"), 0.0), 0.0, "nobody is parked any more")
    tap.ok(settled(lambda: gauge(service, "pruned_http_connections") <= 3, True), "the connections of the vanished are freed")


def check_end_with_parked(service):
    """SIGTERM answers who waits, and does not wait for them."""
    body = {"model": "file://" + model, "method": {"type": "finercut"}, "target": {"num_layers": 1},
            "calibration": {"source": "file://" + text, "num_samples": 400, "window_tokens": 128}}
    job = service.post("/v1/pruning/jobs", body).json
    results = []

    def wait():
        try:
            results.append(service.get("/v1/jobs/%s?wait=25" % job["id"], timeout=60).status)
        except OSError as fault:
            results.append(repr(fault))

    threads = [threading.Thread(target=wait) for _ in range(10)]
    for thread in threads:
        thread.start()
    settled(lambda: gauge(service, "pruned_http_long_polls") >= 10, True)
    before = time.monotonic()
    status = service.stop()
    elapsed = time.monotonic() - before
    for thread in threads:
        thread.join()
    tap.equal(status, 0, "SIGTERM with ten waiting ends with 0 (%.1f s)" % elapsed)
    tap.equal(results, [200] * 10, "and each of them got the job as it stood")


with Service(roots=[folder]) as running:
    check_left(running)
    check_dripping_headers(running)
    check_parked(running)
    check_end_with_parked(running)
shutil.rmtree(folder)
sys.exit(tap.done())

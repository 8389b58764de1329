#!/usr/bin/env python3
"""A worker that speaks the protocol of workers/process/protocol.h and behaves as badly as its job asks.

Only for tests of the daemon's side: the method "stub" has a behaviour, a number of steps and a time for each. A real
worker cannot be told to hang, to lie about a hash or to write rubbish.
"""
import hashlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

BEHAVIOURS = ["work", "crash", "crash_after_step", "exit", "hang", "rubbish", "wrong_epoch", "deaf", "flood", "lie",
              "fail", "fail_transient", "missing", "chatter", "long_frame", "orphan", "drained", "overstay"]


def describe():
    """The catalogue: one job type, one method."""
    method = [
        {"name": "behaviour", "type": "enum", "values": BEHAVIOURS, "default": "work"},
        {"name": "steps", "type": "integer", "min": 1, "max": 1000000, "default": 3},
        {"name": "step_ms", "type": "integer", "min": 0, "max": 1000000, "default": 10},
        {"name": "memory_bytes", "type": "integer", "min": 0, "max": 1e15, "default": 1000000},
        {"name": "plan", "type": "enum", "values": ["good", "bad", "crash", "crash_once", "rubbish", "echo"], "default": "good"},
    ]
    limits = [{"name": "max_seconds", "type": "integer", "min": 1, "max": 100000},
              {"name": "threads", "type": "integer", "min": 1, "max": 100000},
              {"name": "max_memory_bytes", "type": "integer", "min": 1, "max": 1e15}]
    body = {"type": "object", "members": [
        {"name": "model", "type": "text", "flags": ["required"], "min": 1, "max": 4096},
        {"name": "name", "type": "text", "min": 1, "max": 200},
        {"name": "limits", "type": "object", "members": limits},
        {"name": "method", "type": "union", "flags": ["required"],
         "members": [{"name": "stub", "type": "object", "members": method}]}]}
    return {"version": 1, "engine": {"version": "stub"}, "job_types": {"pruning": {"body": body}},
            "methods": [{"name": "stub", "job_type": "pruning", "summary": "Behaves as told.", "needs": [],
                         "parameters": {"name": "stub", "type": "object", "members": method}}],
            "layouts": [], "architectures": [], "formats": [], "devices": ["cpu"]}


def plan(request):
    settings = request["spec"]["method"]["stub"]
    if settings["plan"] == "echo":  # what the attempt may use, the plan is told
        return {"plan": {"memory_bytes": 1, "threads": request["threads"], "limit": request["memory_limit_bytes"]}}
    if settings["plan"] == "bad":
        return {"errors": [{"code": "corrupt_file", "field": "/model", "message": "this model is bad"}]}
    once = os.path.join(request["model"]["folder"], "planned")
    if settings["plan"] == "crash" or (settings["plan"] == "crash_once" and not os.path.exists(once)):
        with open(once, "w", encoding="ascii"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    if settings["plan"] == "rubbish":
        sys.stdout.write("{rubbish")
        sys.exit(0)
    return {"plan": {"memory_bytes": settings["memory_bytes"], "stages": ["score"], "warnings": []},
            "inventory": {"tensors": []}}


class Worker:
    """One attempt."""

    def __init__(self):
        self.socket = socket.socket(fileno=3)
        self.buffer = b""
        self.order = None
        self.stop = None
        self.next_beat = 0.0

    def send(self, kind, **members):
        members.update({"type": kind, "epoch": self.order["epoch"]})
        body = json.dumps(members).encode()
        self.socket.sendall(struct.pack("<I", len(body)) + body)

    def receive(self, seconds):
        """Takes frames for at most this long."""
        if select.select([self.socket], [], [], seconds)[0]:
            data = self.socket.recv(65536)
            if not data:
                os._exit(1)
            self.buffer += data
        while len(self.buffer) >= 4:
            length, = struct.unpack("<I", self.buffer[:4])
            if len(self.buffer) < 4 + length:
                return
            frame = json.loads(self.buffer[4:4 + length])
            self.buffer = self.buffer[4 + length:]
            if frame["type"] == "job":
                self.order = frame
            else:
                self.stop = frame["type"]

    def rest(self, milliseconds, is_deaf):
        """Works, so to say, and says that it is alive."""
        end = time.monotonic() + milliseconds / 1000
        while True:
            now = time.monotonic()
            if now >= self.next_beat:
                self.next_beat = now + self.order["heartbeat_ms"] / 1000
                self.send("heartbeat", peak_rss_bytes=1000000, cpu_seconds=0.5)
            if now >= end or (self.stop and not is_deaf):
                return
            self.receive(min(end - now, 0.05))

    def misbehave(self, behaviour, out):
        if behaviour == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour == "exit":
            os._exit(7)
        if behaviour == "hang":
            while True:
                time.sleep(1000)
        if behaviour == "rubbish":
            self.socket.sendall(struct.pack("<I", 9) + b"not JSON.")
            time.sleep(1000)
        if behaviour == "wrong_epoch":
            self.order["epoch"] += 1
            self.send("stage", stage="score")
            time.sleep(1000)
        if behaviour == "flood":
            for i in range(20000):
                sys.stderr.write("line %d of a very talkative library\n" % i)
        if behaviour == "chatter":
            for i in range(20000):
                self.send("message", level="info", message="message %d of a very talkative library" % i)
        if behaviour == "long_frame":
            self.send("message", level="info", message="long", data={"text": "x" * 100000})
            time.sleep(1000)
        if behaviour == "orphan":  # a process of the worker's own that outlives it, with the socket in its hands
            subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[3])
            os._exit(7)
        if behaviour == "drained":
            self.send("drained")
            os._exit(0)
        if behaviour in ("fail", "fail_transient"):
            self.send("error", stage="score", code="numeric", field="model.norm.weight", message="NaN in row 3",
                      retryable=behaviour == "fail_transient")
            os._exit(1)
        os.makedirs(out, exist_ok=True)

    def run(self):
        while self.order is None:
            self.receive(1)
        settings = self.order["spec"]["method"]["stub"]
        behaviour = settings["behaviour"]
        out = os.path.join(self.order["work_folder"], "out")
        state = os.path.join(self.order["work_folder"], "state")
        self.send("stage", stage="score")
        self.misbehave(behaviour, out)
        first = 0
        if os.path.exists(state):
            with open(state, encoding="ascii") as file:
                first = int(file.read())
        for step in range(first, settings["steps"]):
            self.rest(settings["step_ms"], behaviour == "deaf")
            if self.stop == "cancel" and behaviour != "deaf":
                self.send("error", stage="score", code="cancelled", field="", message="cancelled", retryable=False)
                os._exit(1)
            if self.stop == "drain" and behaviour != "deaf":
                self.send("drained")
                os._exit(0)
            with open(state + ".new", "w", encoding="ascii") as file:
                file.write(str(step + 1))
            os.rename(state + ".new", state)
            self.send("step", stage="score", step=step + 1)
            self.send("progress", stage="score", step=step + 1, steps=settings["steps"], unit="step",
                      ratio=(step + 1) / settings["steps"], rate_per_second=1, eta_seconds=1)
            if behaviour == "crash_after_step":
                os.kill(os.getpid(), signal.SIGKILL)
        self.publish(out, behaviour)

    def publish(self, out, behaviour):
        files = []
        for name, content in (("model.gguf", b"weights" * 1000), ("report.json", b"{}")):
            with open(os.path.join(out, name), "wb") as file:
                file.write(content)
                os.fsync(file.fileno())
            told = content if behaviour not in ("lie", "missing") else b"else"
            digest = hashlib.sha256(told).hexdigest()
            if behaviour == "missing":
                os.unlink(os.path.join(out, name))
            files.append({"path": name, "bytes": len(content), "sha256": digest})
        self.send("result", files=files, result={"parameters": 7000})
        while behaviour == "overstay":
            self.stop = None
            self.rest(1000, True)


def main():
    mode = sys.argv[1] if len(sys.argv) > 1 else ""
    if mode == "--describe":
        print(json.dumps(describe()))
    elif mode == "--plan":
        print(json.dumps(plan(json.load(sys.stdin))))
    elif mode == "--inspect":
        json.load(sys.stdin)
        print(json.dumps({"inventory": {"tensors": []}}))
    else:
        Worker().run()


if __name__ == "__main__":
    main()

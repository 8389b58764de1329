#!/usr/bin/env python3
"""The command line of `pruned`: settings, the supervisor's protocol, socket activation. Workers are stubs."""
import os
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "torture"))
from harness import BUILD, STUB, Service, main  # noqa: E402

PRUNED = os.path.join(BUILD, "pruned")


def pruned(*arguments, environment=None):
    """(exit status, stdout, stderr)"""
    result = subprocess.run([PRUNED] + list(arguments), capture_output=True, text=True, timeout=60,
                            env=dict(os.environ, **(environment or {})), check=False)
    return result.returncode, result.stdout, result.stderr


def check_config_prints_every_value_with_its_origin(folder):
    path = os.path.join(folder, "pruned.conf")
    with open(path, "w", encoding="utf-8") as file:
        file.write("[workers]\nslots = 2\n")
    code, out, complaints = pruned("check-config", "--config", path, "--worker", STUB, "--log-level", "debug",
                                   environment={"PRUNED_WORKERS_THREADS": "5"})
    assert code == 0 and complaints == "", (code, complaints)
    assert "workers.slots = 2  # %s:2" % path in out, out
    assert "workers.threads = 5  # PRUNED_WORKERS_THREADS" in out, out
    assert "log.level = debug  # --log-level" in out, out
    assert "server.listen = 127.0.0.1:8765  # default" in out, out


def check_config_names_every_fault_and_exits_2(folder):
    path = os.path.join(folder, "pruned.conf")
    with open(path, "w", encoding="utf-8") as file:
        file.write("[workers]\nslots = many\nspeed = 3\n[server]\nlisten = here\n")
    for verb in ("check-config", "serve"):
        code, _, complaints = pruned(verb, "--config", path, "--worker", STUB)
        assert code == 2, code
        for place in (":2: ", ":3: ", ":5: "):
            assert path + place in complaints, complaints


def usage_goes_to_stderr_and_exits_2(folder):
    for arguments in ((), ("frobnicate",), ("run",), ("run", os.path.join(folder, "none.json"))):
        code, out, complaints = pruned(*arguments)
        assert code == 2 and out == "" and "usage" in complaints, (arguments, code, out, complaints)
    code, out, complaints = pruned("--help")
    assert code == 0 and "check-config" in out and complaints == ""


def a_start_that_fails_says_why_and_exits_1(folder):
    daemon = Service(folder, worker=STUB)
    daemon.start()
    code, _, complaints = pruned("serve", "--state", daemon.state, "--listen", "127.0.0.1:0", "--worker", STUB)
    assert code == 1 and "conflict" in complaints, (code, complaints)
    code, _, complaints = pruned("serve", "--state", os.path.join(folder, "other"), "--worker", STUB,
                                 "--listen", "127.0.0.1:%d" % daemon.port)
    assert code == 1 and str(daemon.port) in complaints, (code, complaints)
    code, _, complaints = pruned("serve", "--state", os.path.join(folder, "third"), "--worker", "/bin/true",
                                 "--listen", "127.0.0.1:0")
    assert code == 1 and "catalogue" in complaints, (code, complaints)
    assert daemon.stop() == 0


def hear(notify, word, seconds=30):
    """Waits for a datagram that holds the word."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        notify.settimeout(max(0.01, deadline - time.monotonic()))
        if word in notify.recv(4096).decode():
            return
    raise AssertionError("never heard " + word)


def a_supervisor_hears_ready_watchdog_and_stopping_and_hands_over_a_socket(folder):
    notify_path = os.path.join(folder, "notify")
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(notify_path)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    # Like systemd: descriptor 3, LISTEN_PID is the process itself.
    script = "exec 3<&%d; export LISTEN_PID=$$ LISTEN_FDS=1; exec %s serve --state %s/state --worker %s" % (
        listener.fileno(), PRUNED, folder, STUB)
    process = subprocess.Popen(["bash", "-c", script], pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL,
                               env=dict(os.environ, NOTIFY_SOCKET=notify_path, WATCHDOG_USEC="1000000"))
    try:
        hear(notify, "READY=1")
        hear(notify, "WATCHDOG=1")
        daemon = Service(folder)
        daemon.port = listener.getsockname()[1]
        assert daemon.request("GET", "/v1/jobs")["data"] == []
        process.send_signal(signal.SIGTERM)
        hear(notify, "STOPPING=1")
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        notify.close()
        listener.close()


if __name__ == "__main__":
    main([
        check_config_prints_every_value_with_its_origin,
        check_config_names_every_fault_and_exits_2,
        usage_goes_to_stderr_and_exits_2,
        a_start_that_fails_says_why_and_exits_1,
        a_supervisor_hears_ready_watchdog_and_stopping_and_hands_over_a_socket,
    ])

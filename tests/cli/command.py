"""What the tests of `pruned run` share: the program, a generated model and text, TAP output.

    main(tests)  runs every function of a module whose name starts with a lower-case word, each in a folder of its own
"""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("PRUNED_BUILD", os.path.join(ROOT, "build")))
PROGRAM = os.path.join(BUILD, "pruned")
SHARED = os.path.join(ROOT, "..", "shared", "data")
sys.path.insert(0, os.path.join(ROOT, "tests", "http"))

from tiny_model import write_model, write_text  # noqa: E402


class Skip(Exception):
    pass


def world(folder, layers=4):
    """A tiny model, a text whose halves are calibration and evaluation, and two small tasks."""
    model = write_model(os.path.join(folder, "model"), layers=layers)
    with open(os.path.join(model, "tokenizer_config.json"), "w") as file:
        file.write('{"clean_up_tokenization_spaces": false,\n\n "model_max_length": 128}')
    with open(os.path.join(model, "LICENSE.txt"), "w") as file:
        file.write("Do what you like.\n")
    text = write_text(os.path.join(folder, "text.txt"), words=3000)
    generate = os.path.join(folder, "generate.jsonl")
    with open(generate, "w") as file:
        for i in range(6):
            file.write(json.dumps({"prompt": "the cat %d and" % i, "answer": " dog"}) + "\n")
    choice = os.path.join(folder, "choice.jsonl")
    with open(choice, "w") as file:
        for i in range(6):
            file.write(json.dumps({"query": "the cat %d" % i, "choices": ["and", "ran on"], "gold": i % 2}) + "\n")
    return {"folder": folder, "model": model, "text": text, "generate": generate, "choice": choice}


def pruning(w, method="finercut", parameters=None, target=None, output=None, **more):
    spec = {
        "type": "pruning", "model": w["model"], "method": {"type": method, method: parameters or {}},
        "target": target or {"sublayers_removed": 2},
        "calibration": {"source": w["text"], "half": "first", "num_samples": 3, "window_tokens": 64},
        "evaluation": {"text": {"source": w["text"], "half": "second"}, "window_tokens": 64, "speed": False},
    }
    if output:
        spec["output"] = output
    spec.update(more)
    return spec


def run(spec, out, *options, env=None, expect=0, wait=True):
    """Runs a spec; returns (result JSON or None, stderr). expect: the exit status."""
    path = out + ".spec.json"
    with open(path, "w") as file:
        file.write(spec if isinstance(spec, str) else json.dumps(spec))
    process = subprocess.Popen([PROGRAM, "run", path, "--out", out, *options], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env={**os.environ, **(env or {})})
    if not wait:
        return process
    output, errors = process.communicate(timeout=300)
    if expect is not None:
        assert process.returncode == expect, (process.returncode, errors.decode())
    return (json.loads(output) if process.returncode == 0 else None), errors.decode()


def load(out, name):
    with open(os.path.join(out, name)) as file:
        return json.load(file)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def sums(out):
    """SHA256SUMS as {path: digest}, after checking it against the files."""
    with open(os.path.join(out, "SHA256SUMS")) as file:
        listed = {line.rstrip("\n").split("  ", 1)[1]: line.split("  ", 1)[0] for line in file}
    found = {os.path.relpath(os.path.join(at, name), out) for at, _, names in os.walk(out) for name in names}
    for path, expected in listed.items():
        assert digest(os.path.join(out, path)) == expected, path
    rest = found - set(listed)
    assert rest == {"SHA256SUMS", "report.json", "report.html"}, rest
    return listed


def main(module):
    tests = [(name, value) for name, value in vars(module).items()
             if callable(value) and getattr(value, "__module__", "") == module.__name__ and name[0].islower()
             and not name.startswith("_") and name not in getattr(module, "HELPERS", ())]
    if not os.path.exists(PROGRAM):
        print("1..0 # SKIP %s is not built" % PROGRAM)
        return 77
    print("1..%d" % len(tests))
    failed = 0
    for index, (name, test) in enumerate(tests, 1):
        folder = tempfile.mkdtemp(prefix="pruned-cli-")
        started = time.monotonic()
        try:
            test(folder)
            print("ok %d - %s # %.1f s" % (index, name, time.monotonic() - started), flush=True)
        except Skip as reason:
            print("ok %d - %s # SKIP %s" % (index, name, reason), flush=True)
        except BaseException:
            failed += 1
            print("not ok %d - %s" % (index, name), flush=True)
            for line in traceback.format_exc().splitlines():
                print("# " + line)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


def stop(process, number=signal.SIGKILL):
    process.send_signal(number)
    process.wait(timeout=60)


def _catches(process, number):
    """Whether a process has its own handler of a signal; False too once it has ended."""
    with open("/proc/%d/status" % process.pid) as file:
        caught = [line.split()[1] for line in file if line.startswith("SigCgt:")]
    return bool(caught) and bool(int(caught[0], 16) >> (number - 1) & 1)


def run_disturbed(spec, out, source, seconds, number=signal.SIGKILL):
    """The job stopped at random moments (source: random.Random) of the `seconds` that it takes by itself, and gone on with, until it is
    done. What is not stopped must succeed, and at least one attempt must have been stopped before its end."""
    stops, most = 0, 6
    stopped = -number if number == signal.SIGKILL else 3
    for _ in range(60):
        process = run(spec, out, *(["--resume"] if stops else []), wait=False)
        # The clock starts when the program can answer, which it does before it reads the request.
        while number != signal.SIGKILL and process.poll() is None and not _catches(process, number):
            time.sleep(0.001)
        is_signalled = False
        try:
            # The first stop should come in any case; a later attempt may end before its own.
            latest = 0.7 if stops == 0 else 1.1
            _, errors = process.communicate(timeout=source.uniform(0.05, latest) * seconds if stops < most else 300)
        except subprocess.TimeoutExpired:
            stop(process, number)
            _, errors = process.communicate()
            is_signalled = True
        assert process.returncode in ([0, stopped] if is_signalled else [0]), (stops, process.returncode, errors.decode())
        is_finished = os.path.exists(os.path.join(out, "SHA256SUMS")) and not os.path.isdir(os.path.join(out, ".work"))
        if process.returncode == stopped and not is_finished:
            stops += 1
        elif process.returncode == 0 and stops > 0:
            return
        elif stops == 0:
            shutil.rmtree(out)  # it was faster than the clock: once more from the start
    raise AssertionError("%d stops, and it is not done" % stops)

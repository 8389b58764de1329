"""Uploads and models: blobs by content, registration of a folder and of uploaded files, replays, planning before the 201."""
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from service import Service, Tap, require_programs
from tiny_model import write_model

require_programs()
tap = Tap()
folder = os.path.realpath(tempfile.mkdtemp(prefix="pruned-http-"))
model = write_model(os.path.join(folder, "model"))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def settled(path, wanted, seconds=10):
    """The number of entries of a folder, once it is what is wanted: removing runs in the background."""
    deadline = time.monotonic() + seconds
    while len(os.listdir(path)) != wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(os.listdir(path))


def check_blobs(service):
    content = b"some bytes " * 50000
    digest = hashlib.sha256(content).hexdigest()
    path = "/v1/blobs/sha256:" + digest
    tap.equal(service.request("HEAD", path).status, 404, "HEAD of a blob that is not there")
    answer = service.request("PUT", path, body=content)
    tap.ok(answer.status == 201 and answer.json == {"object": "blob", "digest": "sha256:" + digest, "bytes": len(content)},
           "PUT stores it", answer)
    answer = service.request("PUT", path, body=content)
    tap.equal(answer.status, 200, "again is a replay")
    head = service.request("HEAD", path)
    tap.ok(head.status == 200 and head.headers["Content-Length"] == str(len(content)), "HEAD tells its size", head.headers)
    empty = hashlib.sha256(b"").hexdigest()
    tap.equal(service.request("PUT", "/v1/blobs/sha256:" + empty, body=b"").status, 201, "a blob may be empty")
    wrong = service.request("PUT", "/v1/blobs/sha256:" + "0" * 64, body=content)
    tap.ok(wrong.status == 422 and wrong.code == "checksum_mismatch" and digest in wrong.json["detail"],
           "content that is not what its name says is refused, naming both", wrong)
    tap.equal(service.request("HEAD", "/v1/blobs/sha256:" + "0" * 64).status, 404, "and not kept")


def check_curl(service):
    if shutil.which("curl") is None:
        tap.ok(True, "curl -T # SKIP no curl")
        return
    path = os.path.join(folder, "big.bin")
    content = os.urandom(3 << 20)
    with open(path, "wb") as file:
        file.write(content)
    url = "http://127.0.0.1:%d/v1/blobs/sha256:%s" % (service.port, hashlib.sha256(content).hexdigest())
    for flags, wanted in (([], "201"), (["-H", "Transfer-Encoding: chunked"], "200"), (["-H", "Expect: 100-continue"], "200")):
        done = subprocess.run(["curl", "-sS", "-o", os.devnull, "-w", "%{http_code}", *flags, "-T", path, url],
                              capture_output=True, text=True, timeout=60, check=False)
        tap.equal((done.stdout, done.stderr), (wanted, ""), "curl -T " + " ".join(flags))
    bad = "http://127.0.0.1:%d/v1/blobs/sha256:nonsense" % service.port
    done = subprocess.run(["curl", "-sS", "-o", os.devnull, "-w", "%{http_code}", "-H", "Expect: 100-continue", "-T", path, bad],
                          capture_output=True, text=True, timeout=60, check=False)
    tap.equal(done.stdout, "422", "a refused upload is answered before it is sent")
    os.unlink(path)


def check_broken_upload(service):
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"PUT /v1/blobs/sha256:%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" % (b"1" * 64)
                           + b"x" * 5000)
    tap.equal(service.get("/livez").status, 200, "an upload that breaks off harms nothing")
    tap.equal(settled(os.path.join(service.state, "tmp"), 0), 0, "and leaves nothing in tmp/")


def check_folder_model(service):
    answer = service.post("/v1/models", {"name": "tiny", "source": "file://" + model})
    tap.ok(answer.status == 201 and answer.json["id"].startswith("model_"), "a folder becomes a model", answer)
    record = answer.json
    tap.equal(answer.headers["Location"], "/v1/models/" + record["id"], "with its Location")
    tap.ok(record["model_type"] == "llama" and record["parameter_count"] > 10000, "it says what it is", record)
    tap.ok(service.get("/v1/models/tiny").json["inventory"]["tensors"], "the inventory is stored")
    again = service.post("/v1/models", {"name": "tiny", "source": "file://" + model})
    tap.ok(again.status == 200 and again.json["id"] == record["id"], "the same again is a replay", again)
    other = write_model(os.path.join(folder, "other"), seed=2)
    taken = service.post("/v1/models", {"name": "tiny", "source": "file://" + other})
    tap.ok(taken.status == 409 and taken.code == "conflict", "another model cannot take the name", taken)
    tap.equal(service.get("/v1/models/tiny").json["id"], record["id"], "found by name")
    tap.equal(service.get("/v1/models/" + record["id"]).json["name"], "tiny", "and by id")
    job = service.post("/v1/pruning/jobs", {"model": "tiny", "method": {"type": "last_blocks"}, "target": {"num_layers": 1}})
    tap.ok(job.status == 201 and job.json["status"] != "validating" and job.json["plan"]["memory_bytes"] > 0,
           "a job on a registered model is planned before the 201", job)
    tap.equal(service.wait(job.json["id"])["status"], "succeeded", "and runs")
    count = service.job_count()
    refused = service.post("/v1/pruning/jobs", {"model": "tiny", "method": {"type": "last_blocks"},
                                                "target": {"num_layers": 3}})
    tap.ok(refused.status == 422 or refused.status == 201, "a target that asks for nothing", refused)
    refused = service.post("/v1/pruning/jobs", {"model": "tiny", "method": {"type": "last_blocks"}, "target": {"params": 1}})
    tap.ok(refused.status == 422 and refused.code == "unreachable" and "/target" in refused.fields[0],
           "an unreachable target is a 422 before anything runs", refused)
    tap.ok(service.job_count() <= count + 1, "and stores nothing")


def check_gguf_model(service):
    """A GGUF file of our own, named as the model, in a folder of its own, and cut short."""
    body = {"model": "tiny", "method": {"type": "last_blocks"}, "target": {"num_layers": 1}, "output": {"formats": ["gguf:f16"]}}
    job = service.post("/v1/pruning/jobs", body).json
    tap.equal(service.wait(job["id"])["status"], "succeeded", "a job writes a GGUF file")
    content = service.get("/v1/jobs/%s/artifacts/model-F16.gguf" % job["id"]).body
    path = os.path.join(folder, "gguf", "tiny.gguf")
    os.mkdir(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(content)
    answer = service.post("/v1/models", {"name": "by-file", "source": "file://" + path})
    tap.ok(answer.status == 201 and answer.json["model_type"] == "llama", "a GGUF file becomes a model", answer)
    other = service.post("/v1/models", {"name": "by-folder", "source": "file://" + os.path.dirname(path)})
    tap.ok(other.status == 201 and other.json["parameter_count"] == answer.json["parameter_count"], "so does its folder", other)
    for model_name in ("by-file", "file://" + path):
        job = service.post("/v1/evaluation/jobs", {"model": model_name, "evaluation": {}})
        tap.ok(job.status == 201 and service.wait(job.json["id"])["status"] == "succeeded", "it is measured: " + model_name, job)
    with open(path[:-5] + "-cut.gguf", "wb") as file:
        file.write(content[:-100])
    cut = service.post("/v1/models", {"name": "cut", "source": "file://" + file.name})
    tap.ok(cut.status == 422 and cut.code == "corrupt_file" and "tiny-cut.gguf" in cut.json["detail"], "one cut short is refused", cut)
    text = service.post("/v1/models", {"name": "text", "source": "file://" + os.path.join(model, "config.json")})
    tap.ok(text.status == 422 and text.fields == ["/source"] and ".gguf" in text.json["detail"], "another file is no model", text)
    shutil.rmtree(os.path.dirname(path))
    for name in ("by-file", "by-folder"):
        job = service.post("/v1/evaluation/jobs", {"model": name, "evaluation": {}})
        tap.ok(job.status == 422 or service.wait(job.json["id"])["error"]["code"] in ("input_changed", "not_found"),
               "a file that is gone is said: " + name, job)


def check_uploaded_model(service):
    files = [{"path": name, "sha256": service.upload(read(os.path.join(model, name)))} for name in sorted(os.listdir(model))]
    answer = service.post("/v1/models", {"name": "org/uploaded", "files": files})
    tap.ok(answer.status == 201 and answer.json["source"] == "blobs", "uploaded files become a model", answer)
    again = service.post("/v1/models", {"name": "org/uploaded", "files": files})
    tap.ok(again.status == 200 and again.json["id"] == answer.json["id"], "the same again is a replay", again)
    tap.equal(service.get("/v1/models/org/uploaded").json["id"], answer.json["id"], "a name may have a slash")
    tap.equal(len(os.listdir(os.path.join(service.state, "models"))), 1, "one folder was laid out")
    broken = [dict(item) for item in files]
    for item in broken:
        if item["path"] == "config.json":
            item["sha256"] = service.upload(b"{")
    refused = service.post("/v1/models", {"name": "broken", "files": broken})
    tap.ok(refused.status in (400, 422), "a broken model is refused", refused)
    tap.equal(settled(os.path.join(service.state, "models"), 1), 1, "and its folder is gone")
    names = [item["name"] for item in service.get("/v1/models").json["data"]]
    tap.equal(sorted(names), ["by-file", "by-folder", "org/uploaded", "tiny"], "the list has all models")
    page = service.get("/v1/models?limit=1").json
    tap.ok(page["has_more"] and len(page["data"]) == 1, "and pages")


with Service(roots=[folder]) as running:
    check_blobs(running)
    check_curl(running)
    check_broken_upload(running)
    check_folder_model(running)
    check_gguf_model(running)
    check_uploaded_model(running)
shutil.rmtree(folder)
sys.exit(tap.done())

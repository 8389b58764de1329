"""Results: the list of files, ranges, conditional requests, hashes, the archive, the report, a result as the next model."""
import base64
import hashlib
import io
import os
import shutil
import sys
import tarfile
import tempfile

from service import Service, Tap, require_programs
from tiny_model import write_model, write_text

require_programs()
tap = Tap()
folder = os.path.realpath(tempfile.mkdtemp(prefix="pruned-http-"))
model = write_model(os.path.join(folder, "model"))
text = write_text(os.path.join(folder, "text.txt"))
other = write_text(os.path.join(folder, "other.txt"), seed=8)


def check_list(service, job):
    listing = service.get("/v1/jobs/%s/artifacts" % job["id"]).json
    paths = [item["path"] for item in listing["data"]]
    tap.equal(paths, job["result_files"], "the artifacts are the job's result_files")
    wanted = {"plan.json", "report.json", "report.html", "request.json", "SHA256SUMS", "config.json", "tokenizer.json"}
    tap.equal(sorted(wanted - set(paths)), [], "everything that was promised is there")
    hashes = {}
    for item in listing["data"]:
        answer = service.get(item["url"])
        digest = hashlib.sha256(answer.body).hexdigest()
        hashes[item["path"]] = digest
        whole = (answer.status == 200 and digest == item["sha256"] and len(answer.body) == item["bytes"] and
                 answer.headers["ETag"] == '"%s"' % digest and
                 answer.headers["Repr-Digest"] == "sha-256=:%s:" % base64.b64encode(bytes.fromhex(digest)).decode() and
                 "immutable" in answer.headers["Cache-Control"])
        tap.ok(whole, "whole and named by its hash: " + item["path"], answer.headers)
    sums = service.get("/v1/jobs/%s/artifacts/SHA256SUMS" % job["id"]).body.decode()
    wrong = [line for line in sums.splitlines() if hashes.get(line.split(None, 1)[1].lstrip("*")) != line.split()[0]]
    tap.equal(wrong, [], "SHA256SUMS agrees")
    return listing["data"]


def check_ranges(service, item):
    url, content = item["url"], service.get(item["url"]).body
    size = len(content)
    etag = '"%s"' % item["sha256"]
    for header, first, last in (("bytes=0-0", 0, 0), ("bytes=10-19", 10, 19), ("bytes=-7", size - 7, size - 1),
                                ("bytes=%d-" % (size - 3), size - 3, size - 1), ("bytes=5-99999999999", 5, size - 1)):
        answer = service.get(url, headers={"Range": header})
        tap.ok(answer.status == 206 and answer.body == content[first:last + 1] and
               answer.headers["Content-Range"] == "bytes %d-%d/%d" % (first, last, size) and
               answer.headers["ETag"] == etag and "Repr-Digest" in answer.headers, "Range: " + header, answer.headers)
    answer = service.get(url, headers={"Range": "bytes=%d-" % size})
    tap.ok(answer.status == 416 and answer.headers["Content-Range"] == "bytes */%d" % size and
           answer.code == "range_not_satisfiable", "a range behind the end is 416", answer)
    for header in ("bytes=1-0", "bytes=0-1,3-4", "lines=1-2", "bytes=x-y"):
        answer = service.get(url, headers={"Range": header})
        tap.ok(answer.status == 200 and answer.body == content, "ignored: " + header, answer.status)
    answer = service.get(url, headers={"Range": "bytes=0-3", "If-Range": etag})
    tap.equal(answer.status, 206, "If-Range with the tag")
    answer = service.get(url, headers={"Range": "bytes=0-3", "If-Range": '"other"'})
    tap.ok(answer.status == 200 and answer.body == content, "If-Range with another tag sends the whole")
    answer = service.get(url, headers={"If-None-Match": etag})
    tap.ok(answer.status == 304 and answer.body == b"", "If-None-Match")
    head = service.request("HEAD", url)
    tap.ok(head.status == 200 and head.headers["Content-Length"] == str(size) and head.body == b"" and
           head.headers["Accept-Ranges"] == "bytes", "HEAD", head.headers)


def check_archive(service, job, items):
    answer = service.get("/v1/jobs/%s/archive" % job["id"])
    tap.ok(answer.status == 200 and int(answer.headers["Content-Length"]) == len(answer.body), "the archive states its size")
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
        members = {member.name: hashlib.sha256(archive.extractfile(member).read()).hexdigest() for member in archive}
    tap.equal(members, {job["id"] + "/" + item["path"]: item["sha256"] for item in items}, "and holds every file")


def check_report(service, job):
    answer = service.get("/v1/jobs/%s/report" % job["id"])
    tap.ok(answer.status == 200 and answer.headers["Content-Type"] == "application/json" and answer.json, "the report is JSON")
    answer = service.get("/v1/jobs/%s/report.html" % job["id"])
    tap.ok(answer.status == 200 and b"<svg" in answer.body and "default-src 'none'" in answer.headers["Content-Security-Policy"],
           "report.html is self-contained and may load nothing", answer.headers)


def check_missing(service, job):
    for path in ("nothing.json", "../pruned.db", "..%2fpruned.db", "config.json/x", "report.json%00"):
        answer = service.raw_answer(b"GET /v1/jobs/%s/artifacts/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" %
                                    (job["id"].encode(), path.encode()))
        tap.ok(answer.status in (400, 404), "no such file: " + path, answer)


def check_chain(service, job):
    answer = service.post("/v1/evaluation/jobs", {"model": "job:" + job["id"], "evaluation": {
        "text": {"source": "file://" + other}, "window_tokens": 64, "protocols": ["gptq"]}})
    tap.equal(answer.status, 201, "a result is a model: %s" % answer)
    done = service.wait(answer.json["id"])
    tap.ok(done["status"] == "succeeded" and done["result"], "and can be evaluated", done["error"])
    tap.equal(service.get("/v1/jobs/%s" % done["id"]).json["object"], "evaluation.job", "by an evaluation job")


with Service(roots=[folder]) as running:
    submitted = running.post("/v1/pruning/jobs", {
        "model": "file://" + model, "method": {"type": "finercut"}, "target": {"num_layers": 1},
        "calibration": {"source": "file://" + text, "num_samples": 4, "window_tokens": 64},
        "evaluation": {"text": {"source": "file://" + other}, "window_tokens": 64}})
    unfinished = running.get("/v1/jobs/%s/report" % submitted.json["id"])
    tap.ok(unfinished.status in (200, 404), "a report before its time is 404", unfinished)
    result = running.wait(submitted.json["id"])
    if tap.ok(result["status"] == "succeeded", "the job succeeds", result["error"]):
        artifacts = check_list(running, result)
        check_ranges(running, max(artifacts, key=lambda item: item["bytes"]))
        check_archive(running, result, artifacts)
        check_report(running, result)
        check_missing(running, result)
        check_chain(running, result)
shutil.rmtree(folder)
sys.exit(tap.done())

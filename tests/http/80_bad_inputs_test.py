"""Bad inputs, one table: each gets its one clear answer (status, code, field), and after each the daemon is alive and
empty-handed: no job stored by a refused request, nothing left in tmp/, work/ or models/.

A row is (name, function, status, code, field). The function gets the service and returns an Answer, or a job that
ended as failed; a failed job has status "failed". A field of None is not looked at.
"""
import json
import os
import shutil
import struct
import sys
import tempfile
import time

from service import Answer, Service, Tap, require_programs
from tiny_model import (build_config, build_tensors, build_tokenizer, pack_safetensors, save, write_model,
                        write_text)

require_programs()
tap = Tap()
folder = os.path.realpath(tempfile.mkdtemp(prefix="pruned-bad-"))
outside = os.path.realpath(tempfile.mkdtemp(prefix="pruned-outside-"))
MODEL = write_model(os.path.join(folder, "model"))
TEXT = write_text(os.path.join(folder, "text.txt"))
OTHER = write_text(os.path.join(folder, "other.txt"), seed=8)
write_model(os.path.join(outside, "model"))
os.symlink(os.path.join(outside, "model"), os.path.join(folder, "escape"))
TABLE = []
UPLOAD_LIMIT = 1 << 20


def row(name, send, status, code, field=None):
    TABLE.append((name, send, status, code, field))


def uri(path):
    return "file://" + path


def pruning(**changes):
    body = {"model": "good", "method": {"type": "last_blocks"}, "target": {"num_layers": 1}, **changes}
    return {name: value for name, value in body.items() if value is not ...}


def post(body, path="/v1/pruning/jobs", **options):
    return lambda service: service.post(path, body, **options)


def get(path):
    return lambda service: service.get(path)


def raw(data):
    return lambda service: service.raw_answer(data)


def json_bytes(data):
    return post(data, headers={"Content-Type": "application/json"})


# ---- the header ---------------------------------------------------------------------------------------------

HEAD = b"POST /v1/pruning/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
row("two different Content-Length", raw(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}}"), 400, "invalid_argument",
    "Content-Length")
row("Content-Length beside chunked", raw(HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    400, "invalid_argument", "Transfer-Encoding")
row("a header name with a space", raw(HEAD + b"Content-Length : 2\r\n\r\n{}"), 400, "invalid_argument", "header")
row("a foreign Host", raw(b"GET /v1/jobs HTTP/1.1\r\nHost: rebound.example\r\n\r\n"), 400, "invalid_argument", "Host")
row("an encoded NUL in the path", raw(b"GET /v1/jobs%00 HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400, "invalid_argument", "path")
row("a path that climbs", raw(b"GET /v1/jobs/../../etc HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400, "invalid_argument", "path")
row("no such address", get("/v2/jobs"), 404, "not_found", "path")
row("a method that is not taken", lambda service: service.request("PUT", "/v1/jobs"), 405, "method_not_allowed")
row("a form instead of JSON", post(b"model=x", headers={"Content-Type": "application/x-www-form-urlencoded"}), 415,
    "unsupported_media_type", "Content-Type")
row("a body that announces more than 1 MiB", json_bytes(b" " * ((1 << 20) + 1)), 413, "too_large", "Content-Length")
row("a body that grows past 1 MiB", raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" +
                                        (b"10000\r\n" + b" " * 65536 + b"\r\n") * 17 + b"0\r\n\r\n"), 413, "too_large", "body")

# ---- JSON ---------------------------------------------------------------------------------------------------

row("no body", json_bytes(b""), 400, "malformed_json")
row("half a document", json_bytes(b'{"model": "good"'), 400, "malformed_json")
row("something behind the document", json_bytes(b'{} {}'), 400, "malformed_json")
row("a bare string", json_bytes(b'"model"'), 400, "malformed_json")
row("an array", json_bytes(b"[]"), 422, "wrong_type", "")
row("a duplicate key", json_bytes(b'{"model": "good", "model": "better"}'), 400, "duplicate_key", None)
row("100 levels of nesting", json_bytes(b'{"a":' * 100 + b"1" + b"}" * 100), 400, "malformed_json")
row("a million brackets", json_bytes(b"[]," * 340000), 400, "malformed_json")
row("a NUL in a string", json_bytes(b'{"model": "a\\u0000b"}'), 400, "malformed_json")
row("bytes that are no UTF-8", json_bytes(b'{"model": "\xff"}'), 400, "malformed_json")
row("a number beyond every range", json_bytes(b'{"seed": 1e999}'), 400, "malformed_json")

# ---- parameters -----------------------------------------------------------------------------------------------

row("no model", post(pruning(model=...)), 422, "missing_field", "/model")
row("no method", post(pruning(method=...)), 422, "missing_field", "/method")
row("no target", post(pruning(target=...)), 422, "missing_field", "/target")
row("an unknown member", post(pruning(modle="x")), 422, "unknown_field", "/modle")
row("a model that is a number", post(pruning(model=7)), 422, "wrong_type", "/model")
row("an unknown method", post(pruning(method={"type": "magic"})), 422, "unknown_value", "/method/type")
row("an unknown parameter of a method", post(pruning(method={"type": "finercut", "finercut": {"metrics": "js"}})), 422,
    "unknown_field", "/method/finercut/metrics")
row("an unknown value of a parameter", post(pruning(method={"type": "finercut", "finercut": {"metric": "euclid"}})), 422,
    "unknown_value", "/method/finercut/metric")
row("parameters of another method", post(pruning(method={"type": "random", "finercut": {}})), 422, "unknown_field",
    "/method/finercut")
row("a share as text", post(pruning(target={"sparsity": "0.5"})), 422, "wrong_type", "/target/sparsity")
row("a share of one and a half", post(pruning(target={"sparsity": 1.5})), 422, "out_of_range", "/target/sparsity")
row("a negative share", post(pruning(target={"sparsity": -0.1})), 422, "out_of_range", "/target/sparsity")
row("two targets", post(pruning(target={"sparsity": 0.5, "num_layers": 1})), 422, "invalid_argument", "/target")
row("an empty target", post(pruning(target={})), 422, "missing_field", "/target")
row("an unknown target", post(pruning(target={"layers": 1})), 422, "unknown_field", "/target/layers")
row("a fraction of a layer", post(pruning(target={"num_layers": 1.5})), 422, "wrong_type", "/target/num_layers")
row("an unknown layout", post(pruning(output={"layout": "zip"})), 422, "unknown_value", "/output/layout")
row("no threads", post(pruning(limits={"threads": 0})), 422, "out_of_range", "/limits/threads")
row("seventeen pairs of metadata", post(pruning(metadata={str(i): "x" for i in range(17)})), 422, "out_of_range", "/metadata")
row("metadata that is a number", post(pruning(metadata={"a": 1})), 422, "wrong_type", "/metadata/a")
row("a control character in a name", post(pruning(name="a\u0007b")), 422, "invalid_argument", "/name")
row("a window of one token", post(pruning(calibration={"source": uri(TEXT), "window_tokens": 1})), 422, "out_of_range",
    "/calibration/window_tokens")
row("a pruning job sent as an evaluation", post(pruning(), path="/v1/evaluation/jobs"), 422, "unknown_field", "/method")
row("a type that is another", post(pruning(type="evaluation")), 422, "invalid_argument", "/type")
row("an empty Idempotency-Key", post(pruning(), headers={"Idempotency-Key": ""}), 422, "out_of_range", "Idempotency-Key")
row("a misspelt dry_run", post(pruning(), path="/v1/pruning/jobs?dryrun=true"), 422, "unknown_field", "dryrun")

# ---- what a request names -------------------------------------------------------------------------------------

row("a model that nobody registered", post(pruning(model="llama")), 422, "not_found", "/model")
row("a folder outside the roots", post(pruning(model=uri(os.path.join(outside, "model")))), 422, "forbidden", "/model")
row("a folder that climbs out", post(pruning(model=uri(folder + "/../" + os.path.basename(outside) + "/model"))), 422, "forbidden",
    "/model")
row("a link that leads out", post(pruning(model=uri(os.path.join(folder, "escape")))), 422, "forbidden", "/model")
row("a folder that is not there", post(pruning(model=uri(os.path.join(folder, "nothing")))), 422, "not_found", "/model")
row("a file as model", post(pruning(model=uri(TEXT))), 422, "invalid_argument", "/model")
row("a hub that is not asked", post(pruning(model="hf://org/name")), 422, "unsupported", "/model")
row("a result that is not there", post(pruning(model="job:job_" + "0" * 26)), 422, "not_found", "/model")
row("a text outside the roots", post(pruning(calibration={"source": "file:///etc/passwd"})), 422, "forbidden",
    "/calibration/source")
row("a text that is not there", post(pruning(calibration={"source": uri(os.path.join(folder, "no.txt"))})), 422, "not_found",
    "/calibration/source")
row("a folder as text", post(pruning(calibration={"source": uri(MODEL)})), 422, "invalid_argument", "/calibration/source")
row("a text by https", post(pruning(calibration={"source": "https://example.org/x"})), 422, "unsupported", "/calibration/source")
row("a blob that was not uploaded", post(pruning(calibration={"source": "sha256:" + "0" * 64})), 422, "not_found",
    "/calibration/source")
row("half a digest", post(pruning(calibration={"source": "sha256:123"})), 422, "invalid_argument", "/calibration/source")
row("a task's file that is not there", post(pruning(evaluation={"tasks": [
    {"name": "t", "kind": "generate", "source": uri(os.path.join(folder, "no.jsonl"))}]})), 422, "not_found",
    "/evaluation/tasks/0/source")

# ---- blobs and models --------------------------------------------------------------------------------------------


def put(name, content=b"x"):
    return lambda service: service.request("PUT", "/v1/blobs/" + name, body=content)


row("a blob without a hash", put("nonsense"), 422, "invalid_argument", "digest")
row("a hash in capitals", put("sha256:" + "A" * 64), 422, "invalid_argument", "digest")
row("content that its name denies", put("sha256:" + "0" * 64), 422, "checksum_mismatch", None)
row("an upload over the limit", put("sha256:" + "1" * 64, b"x" * (UPLOAD_LIMIT + 1)), 413, "too_large", "Content-Length")
row("an upload that grows over the limit",
    raw(b"PUT /v1/blobs/sha256:" + b"2" * 64 + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" +
        (b"10000\r\n" + b" " * 65536 + b"\r\n") * 17 + b"0\r\n\r\n"), 413, "too_large", "body")
row("a model without a name", post({"source": uri(MODEL)}, path="/v1/models"), 422, "missing_field", "/name")
row("a name with a space", post({"name": "a b", "source": uri(MODEL)}, path="/v1/models"), 422, "invalid_argument", "/name")
row("a name that looks like an id", post({"name": "model_x", "source": uri(MODEL)}, path="/v1/models"), 422, "invalid_argument",
    "/name")
row("a source and files", post({"name": "x", "source": uri(MODEL), "files": []}, path="/v1/models"), 422, "invalid_argument", "")
row("a file path that climbs", post({"name": "x", "files": [{"path": "../x", "sha256": "0" * 64}]}, path="/v1/models"), 422,
    "invalid_argument", "/files/0/path")
row("a model of absent blobs", post({"name": "x", "files": [{"path": "config.json", "sha256": "0" * 64}]}, path="/v1/models"),
    422, "not_found", "/files/0/sha256")
row("a name that is taken", lambda service: service.post("/v1/models", {"name": "good", "source": uri(BROKEN["other"])}), 409,
    "conflict", "/name")
row("no such model", get("/v1/models/nothing"), 404, "not_found", "id")

# ---- model folders that are broken ---------------------------------------------------------------------------------

BROKEN = {"other": write_model(os.path.join(folder, "second"), seed=2)}


def broken(name, code, field, edit=None, config=None, tokenizer=None, header_edit=None, as_job=False):
    """A model folder spoilt by edit(folder); registering it must fail, and so must a job that names it."""
    path = write_model(os.path.join(folder, "broken-" + name.replace(" ", "-")), config=config, tokenizer=tokenizer,
                       header_edit=header_edit)
    if edit is not None:
        edit(path)
    row(name, post({"name": "broken", "source": uri(path)}, path="/v1/models"), 422, code, field)
    if as_job:
        row(name + ", by a job", failing(pruning(model=uri(path))), "failed", code, field)


def failing(body, path="/v1/pruning/jobs"):
    """Submits; a 201 is followed to its end and deleted. Returns the refusal or the failed job."""
    def send(service):
        answer = service.post(path, body)
        if answer.status != 201:
            return answer
        job = service.wait(answer.json["id"])
        deleted = service.request("DELETE", "/v1/jobs/" + job["id"])
        assert deleted.status == 204, deleted
        return job
    return send


def weights(path):
    return os.path.join(path, "model.safetensors")


def truncate(path):
    os.truncate(weights(path), os.path.getsize(weights(path)) - 100)


def append(path):
    with open(weights(path), "ab") as file:
        file.write(b"more")


def overwrite(content):
    def edit(path):
        with open(weights(path), "wb") as file:
            file.write(content)
    return edit


def overlap(header):
    names = sorted(name for name in header if name != "__metadata__")
    first, second = header[names[0]], header[names[1]]
    size = second["data_offsets"][1] - second["data_offsets"][0]
    second["data_offsets"] = [first["data_offsets"][1] - 4, first["data_offsets"][1] - 4 + size]


def wrong_shape(header):
    header["model.norm.weight"]["shape"] = [33]


def huge_shape(header):
    header["model.norm.weight"]["shape"] = [4194305, 4194305, 211106198978564]


def unknown_dtype(header):
    header["model.norm.weight"]["dtype"] = "F7"


def double_name(path):
    with open(weights(path), "rb") as file:
        content = file.read()
    length = struct.unpack("<Q", content[:8])[0]
    text = content[8:8 + length].decode().replace('"model.layers.1.input_layernorm.weight"',
                                                  '"model.layers.0.input_layernorm.weight"')
    overwrite(struct.pack("<Q", len(text)) + text.encode() + content[8 + length:])(path)


def missing_tensor(path):
    tensors = build_tensors(build_config())
    del tensors["model.layers.1.mlp.up_proj.weight"]
    overwrite(pack_safetensors(tensors))(path)


def shard_index(target):
    def edit(path):
        os.rename(weights(path), os.path.join(path, "part.safetensors"))
        names = sorted(build_tensors(build_config()))
        save(path, "model.safetensors.index.json", {"metadata": {}, "weight_map": {name: target for name in names}})
    return edit


def remove(name):
    return lambda path: os.unlink(os.path.join(path, name))


def replace(name, content):
    return lambda path: save(path, name, content)


broken("a truncated safetensors file", "corrupt_file", "model.safetensors", truncate, as_job=True)
broken("bytes behind the tensors", "corrupt_file", "model.safetensors", append)
broken("a file of four bytes", "corrupt_file", "model.safetensors", overwrite(b"abcd"))
broken("a header longer than the file", "corrupt_file", "model.safetensors", overwrite(struct.pack("<Q", 1 << 40) + b"{}"))
broken("a header that is no JSON", "corrupt_file", "model.safetensors", overwrite(struct.pack("<Q", 8) + b"{nonsen}"))
broken("overlapping tensors", "corrupt_file", "model.layers.0.input_layernorm.weight", header_edit=overlap, as_job=True)
broken("a shape that its bytes deny", "corrupt_file", "model.norm.weight", header_edit=wrong_shape)
broken("a shape whose product overflows", "corrupt_file", "model.norm.weight", header_edit=huge_shape)
broken("an unknown dtype", "corrupt_file", "model.safetensors", header_edit=unknown_dtype)
broken("one name twice", "corrupt_file", "model.layers.0.input_layernorm.weight", double_name)
broken("a missing tensor", "config_mismatch", "model.layers.1.mlp.up_proj.weight", missing_tensor)
broken("a shard outside the folder", "corrupt_file", "model.safetensors.index.json", shard_index("../part.safetensors"), as_job=True)
broken("a shard that is not there", "not_found", "gone.safetensors", shard_index("gone.safetensors"))
broken("no weights at all", "not_found", "model.safetensors", remove("model.safetensors"))
broken("no config.json", "not_found", "config.json", remove("config.json"))
broken("a config.json that is no JSON", "malformed_json", "config.json", replace("config.json", b"{"))
broken("a config that contradicts the tensors", "config_mismatch", "model.layers.0.mlp.gate_proj.weight", config={"intermediate_size": 40}, as_job=True)
broken("more layers than there are", "config_mismatch", "model.layers.2.input_layernorm.weight", config={"num_hidden_layers": 3})
broken("heads that do not divide", "out_of_range", "config.json/num_attention_heads", config={"num_attention_heads": 5})
broken("a negative width", "out_of_range", "config.json/hidden_size", config={"hidden_size": -32})
broken("another architecture", "unsupported", "config.json/model_type", config={"model_type": "mamba", "architectures": ["MambaForCausalLM"]})
broken("a tokenizer that knows more tokens than the model", "tokenizer_mismatch", "tokenizer.json", tokenizer=build_tokenizer(50),
       as_job=True)
broken("a tokenizer that is no JSON", "corrupt_file", "tokenizer.json", replace("tokenizer.json", b"["))
broken("a tokenizer of an unknown kind", "unsupported", "tokenizer.json/model/type",
       tokenizer={**build_tokenizer(), "model": {"type": "WordLevel", "vocab": [["a", 0.0]]}})

# ---- plans that cannot be -----------------------------------------------------------------------------------------------

row("a target beyond everything", post(pruning(target={"params": 1})), 422, "unreachable", "/target/params")
row("a target that would remove everything", post(pruning(target={"sparsity": 0.999})), 422, "unreachable", "/target/sparsity")
row("more sublayers than there are", post(pruning(target={"sublayers_removed": 5})), 422, "unreachable",
    "/target/sublayers_removed")
row("a method without its calibration", post(pruning(method={"type": "finercut"})), 422, "missing_field",
    "/calibration/source")
row("a window beyond the context", failing(pruning(method={"type": "finercut"}, calibration={
    "source": uri(TEXT), "window_tokens": 4096})), 422, "out_of_range", "/calibration/window_tokens")
row("memory that cannot suffice", post(pruning(limits={"max_memory_bytes": 16777216})), 422, "out_of_memory",
    "/limits/max_memory_bytes")

# ---- texts that cannot be used --------------------------------------------------------------------------------------------


def text_file(name, content):
    return uri(save(folder, name, content))


def calibrated(source, **more):
    return pruning(method={"type": "finercut"}, calibration={"source": source, "num_samples": 4, "window_tokens": 64, **more})


row("an empty calibration text", failing(calibrated(text_file("empty.txt", b""))), 422, "text_too_short", "/calibration/source")
row("a calibration text of five words", failing(calibrated(text_file("short.txt", b"one two three four five\n"))), "failed",
    "text_too_short", "short.txt")
row("a calibration text that is no UTF-8", failing(calibrated(text_file("latin.txt", b"caf\xe9 " * 4000))), "failed", "corrupt_file",
    "latin.txt")
row("records without the text field", failing(calibrated(text_file("records.jsonl", b'{"body": "x"}\n' * 50))), "failed",
    "corrupt_file", "records.jsonl")
row("records that are no JSON", failing(calibrated(text_file("broken.jsonl", b'{"text": \n' * 50))), "failed", "corrupt_file",
    "broken.jsonl")
row("calibration on the evaluation text", failing({**calibrated(uri(TEXT)), "evaluation": {
    "text": {"source": uri(TEXT)}, "window_tokens": 64}}), 422, "text_overlap", "/evaluation/text/source")
row("an evaluation of nothing", failing({"model": "good", "evaluation": {"text": {"source": text_file("none.txt", b"")}}},
                                        "/v1/evaluation/jobs"), 422, "text_too_short", "/evaluation/text/source")
row("tasks without answers", failing({"model": "good", "evaluation": {"tasks": [
    {"name": "t", "kind": "generate", "source": text_file("tasks.jsonl", b'{"prompt": "x"}\n')}]}}, "/v1/evaluation/jobs"), "failed",
    "corrupt_file", "tasks.jsonl")

# ---- jobs and files --------------------------------------------------------------------------------------------------------

NO_JOB = "/v1/jobs/job_" + "0" * 26
row("no such job", get(NO_JOB), 404, "not_found", None)
row("an id that cannot be one", get("/v1/jobs/1%20OR%201"), 404, "not_found", "id")
row("cancel of no job", post(None, path=NO_JOB + "/cancel"), 404, "not_found", None)
row("retry of a job that succeeded", lambda service: service.post("/v1/jobs/%s/retry" % service.good_job), 409, "conflict", None)
row("cancel of a job that succeeded", lambda service: service.post("/v1/jobs/%s/cancel" % service.good_job), 409, "conflict", None)
row("delete of no job", lambda service: service.request("DELETE", NO_JOB), 404, "not_found", None)
row("a wait of an hour", lambda service: service.get("/v1/jobs/%s?wait=3600" % service.good_job), 422, "out_of_range", "wait")
row("a limit of a thousand", get("/v1/jobs?limit=1000"), 422, "out_of_range", "limit")
row("an unknown status", get("/v1/jobs?status=done"), 422, "unknown_value", "status")
row("a file that is not in the result", lambda service: service.get("/v1/jobs/%s/artifacts/no.bin" % service.good_job), 404,
    "not_found", None)
row("a range behind the end",
    lambda service: service.get("/v1/jobs/%s/artifacts/plan.json" % service.good_job, headers={"Range": "bytes=99999999-"}), 416,
    "range_not_satisfiable", "Range")


# ---- the run ----------------------------------------------------------------------------------------------------------------


def leftovers(service):
    """What stands in tmp/ and work/, and how many folders in models/ no registered model names."""
    found = []
    for name in ("tmp", "work"):
        path = os.path.join(service.state, name)
        found += [name + "/" + entry for entry in (os.listdir(path) if os.path.isdir(path) else [])]
    path = os.path.join(service.state, "models")
    return found + ["models/" + entry for entry in (os.listdir(path) if os.path.isdir(path) else [])]


def is_empty_handed(service, jobs):
    """Deletions run in the background: they get ten seconds."""
    deadline = time.monotonic() + 10
    while leftovers(service) and time.monotonic() < deadline:
        time.sleep(0.02)
    return leftovers(service) == [] and service.job_count() == jobs and service.get("/livez").status == 200


def outcome(result):
    """(status, code, fields) of an Answer or of a failed job."""
    if isinstance(result, Answer):
        return result.status, result.code, result.fields
    error = result["error"] or {}
    return result["status"], error.get("code"), [error.get("field") or ""]


def run(service):
    model = service.post("/v1/models", {"name": "good", "source": uri(MODEL)})
    assert model.status == 201, model
    job = service.wait(service.post("/v1/pruning/jobs", pruning()).json["id"])
    assert job["status"] == "succeeded", job["error"]
    service.good_job = job["id"]
    jobs = service.job_count()
    for name, send, status, code, field in TABLE:
        try:
            result = send(service)
        except (OSError, AssertionError) as fault:
            tap.ok(False, name, repr(fault))
            continue
        got_status, got_code, fields = outcome(result)
        good = got_status == (status or got_status) and got_code == (code or got_code) and got_code is not None
        good = good and (got_status in (422, "failed") or status is not None) and (field is None or field in fields)
        detail = result if isinstance(result, Answer) else json.dumps(result["error"])
        clean = is_empty_handed(service, jobs)
        tap.ok(good and clean, "%s: %s %s %s" % (name, got_status, got_code, fields[:1]),
               "wanted %s %s at %s; left behind: %s, %d jobs; got %s" % (status, code, field, leftovers(service),
                                                                       service.job_count(), detail))
    tap.ok(service.process.poll() is None, "the daemon lived through all of it")
    tap.ok(len(TABLE) >= 60, "the table has at least 60 rows: %d" % len(TABLE))


with Service(roots=[folder], flags=["--max-upload-bytes", str(UPLOAD_LIMIT)]) as running:
    run(running)
    tap.equal(running.stop(), 0, "SIGTERM ends it with 0")
shutil.rmtree(folder)
shutil.rmtree(outside)
sys.exit(tap.done())

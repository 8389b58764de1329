"""The door itself: probes, addresses, methods, the header gate, the token, the shape of an error."""
import json
import os
import sys
import tempfile

from service import Service, Tap, require_programs

require_programs()
tap = Tap()

# Each is refused with 400 and a closed connection: two readers could disagree on where it ends, or on whom it asks.
HOSTILE = {
    "two different Content-Length": b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "Content-Length beside chunked": b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown Transfer-Encoding": b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length : 5\r\n\r\nhello",
    "a signed Content-Length": b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\nhello",
    "two Host fields": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "no Host": b"GET /livez HTTP/1.1\r\n\r\n",
    "a foreign Host": b"GET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "an encoded NUL": b"GET /livez%00x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an encoded slash": b"GET /v1%2fjobs HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "dot segments": b"GET /v1/../livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "absolute form": b"GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an unknown expectation": b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nExpect: miracles\r\nContent-Length: 2\r\n\r\n{}",
    "a query name given twice": b"GET /v1/jobs?limit=1&limit=2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


def check_probes(service):
    tap.equal(service.get("/livez").body, b"ok\n", "livez answers ok")
    ready = service.get("/readyz?verbose")
    tap.ok(ready.status == 200 and b"[+]" in ready.body, "readyz?verbose lists its checks", ready)
    version = service.get("/version").json
    tap.ok(version["name"] == "pruned" and version["engine"], "version names the engine", version)
    landing = service.get("/")
    tap.ok(landing.status == 200 and b"/v1/pruning/jobs" in landing.body, "the landing page shows the way", landing)
    head = service.request("HEAD", "/livez")
    tap.ok(head.status == 200 and head.body == b"" and head.headers["Content-Length"] == "3", "HEAD works where GET does")
    metrics = service.get("/metrics").body.decode()
    tap.ok("pruned_jobs{status=\"queued\"} 0" in metrics and "pruned_build_info{" in metrics, "metrics are Prometheus text",
           metrics[:500])
    tap.ok("pruned_http_requests_total{route=\"/livez\",method=\"GET\",code=\"200\"}" in metrics, "requests are counted by route")
    names = [line.split("{")[0].split(" ")[0] for line in metrics.splitlines() if not line.startswith("#")]
    typed = [line.split(" ")[2] for line in metrics.splitlines() if line.startswith("# TYPE")]
    bare = [name for name in names if name not in typed and name.rsplit("_", 1)[0] not in typed]
    tap.equal(bare, [], "every metric has a TYPE")
    tap.equal(len(typed), len(set(typed)), "no metric is declared twice")


def check_methods(service):
    answer = service.get("/v1/methods").json
    names = [method["id"] for method in answer["data"]]
    tap.ok({"finercut", "shortgpt", "random", "last_blocks"} <= set(names), "the four methods are listed", names)
    one = service.get("/v1/methods/finercut").json
    tap.ok(one["parameters"]["type"] == "object" and "metric" in one["parameters"]["properties"],
           "a method's parameters are a JSON Schema", one)
    tap.ok(answer["job_types"]["pruning"]["properties"]["target"], "the whole body has a schema too")
    missing = service.get("/v1/methods/magic")
    tap.ok(missing.status == 404 and missing.code == "not_found", "an unknown method is 404", missing)


def check_addresses(service):
    for path in ("/v1", "/v1/job", "/v1/jobs/", "/nothing", "//livez"):
        answer = service.get(path)
        tap.ok(answer.status == 404 and answer.code == "not_found", "%s is 404" % path, answer)
    answer = service.request("DELETE", "/v1/pruning/jobs")
    tap.ok(answer.status == 405 and answer.headers["Allow"] == "GET, HEAD, POST", "a wrong method is 405 with Allow", answer)
    answer = service.request("PATCH", "/livez")
    tap.ok(answer.status == 405 and answer.headers["Allow"] == "GET, HEAD", "an unknown method is 405 too", answer)
    answer = service.get("/v1/jobs?limt=3")
    tap.ok(answer.status == 422 and answer.code == "unknown_field" and answer.fields == ["limt"],
           "an unknown query parameter is refused", answer)


def check_error_shape(service):
    answer = service.post("/v1/pruning/jobs", {"nonsense": 1})
    problem = answer.json
    tap.equal(answer.headers["Content-Type"], "application/problem+json", "errors are problem+json")
    tap.equal(sorted(problem), ["detail", "error", "errors", "instance", "request_id", "status", "title", "type"],
              "a problem has the members of RFC 9457 and of OpenAI")
    tap.equal(sorted(problem["error"]), ["code", "message", "param", "type"], "error is OpenAI's envelope")
    tap.equal(problem["request_id"], answer.headers["X-Request-Id"], "the request id stands in header and body")
    tap.ok({"/model", "/method", "/target", "/nonsense"} <= set(answer.fields), "every fault at once", answer)


def check_gate(service):
    for name, data in HOSTILE.items():
        answer = service.raw_answer(data)
        closes = answer.headers.get("Connection", "").lower() == "close"
        tap.ok(answer.status == 400 and closes, "refused: " + name, answer)
    first = service.raw(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length : 23\r\n\r\nGET /readyz HTTP/1.1\r\n\r\n")
    tap.equal(first.count(b"HTTP/1.1 "), 1, "what follows a refused request is not read as a request")
    answer = service.get("/livez", headers={"Host": "192.0.2.7:1"})
    tap.equal(answer.status, 200, "an address as Host is fine")
    answer = service.request("POST", "/v1/jobs/job_0/cancel", headers={"Sec-Fetch-Site": "cross-site"})
    tap.ok(answer.status == 403 and answer.code == "forbidden", "another site's page may not cancel", answer)
    answer = service.raw_answer(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 40000 + b"\r\n\r\n")
    tap.equal(answer.status, 431, "a header field of 40 kB is too large")
    tap.equal(service.get("/livez").status, 200, "and the service lives")


def check_token():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "token")
        with open(path, "w", encoding="ascii") as file:
            file.write("hf_" + "A" * 34)
        os.chmod(path, 0o600)
        with Service(flags=["--token-file", path]) as service:
            tap.equal(service.get("/livez").status, 200, "probes need no token")
            answer = service.get("/v1/jobs")
            tap.ok(answer.status == 401 and answer.code == "unauthorized" and answer.headers["WWW-Authenticate"] == "Bearer"
                   and answer.json["error"]["type"] == "authentication_error", "no token is 401", answer)
            tap.equal(service.get("/v1/jobs", headers={"Authorization": "Bearer hf_wrong"}).status, 401, "a wrong token is 401")
            good = {"Authorization": "Bearer hf_" + "A" * 34}
            tap.equal(service.get("/v1/jobs", headers=good).status, 200, "the right token opens")
            answer = service.request("PUT", "/v1/blobs/sha256:" + "0" * 64, body=b"x" * 100000)
            tap.equal(answer.status, 401, "an upload without a token gets its answer")


with Service() as running:
    check_probes(running)
    check_methods(running)
    check_addresses(running)
    check_error_shape(running)
    check_gate(running)
    tap.equal(json.loads(running.get("/v1/jobs").body)["data"], [], "no jobs")
    tap.equal(running.stop(), 0, "SIGTERM ends it with 0")
check_token()
sys.exit(tap.done())

#!/usr/bin/env python3
"""Workers that misbehave, one way each, by a stub that speaks the protocol: what the job and the service become."""
import os
import signal
import threading
import time

from harness import STUB, Refused, Service, main


def service(folder, *flags):
    model = os.path.join(folder, "model")
    os.makedirs(model, exist_ok=True)
    result = Service(folder, "--lease-ms", "1200", *flags, worker=STUB, roots=[model])
    result.start()
    return result, model


def spec(model, behaviour="work", limits=None, **more):
    body = {"model": "file://" + model, "method": {"type": "stub", "stub": dict(more, behaviour=behaviour)}}
    if limits:
        body["limits"] = limits
    return body


def run(folder, behaviour, limits=None, seconds=60, **more):
    """One job to its end, and a second, good one after it: the service must have survived."""
    daemon, model = service(folder)
    try:
        job = daemon.wait(daemon.submit(spec(model, behaviour, limits, **more))["id"], seconds=seconds)
        good = daemon.wait(daemon.submit(spec(model))["id"])
        assert good["status"] == "succeeded", good
        assert daemon.workers() == [], daemon.workers()
        left = os.listdir(os.path.join(daemon.state, "work"))
        deadline = time.monotonic() + 10
        while left and time.monotonic() < deadline:
            time.sleep(0.01)
            left = os.listdir(os.path.join(daemon.state, "work"))
        assert not left, left
        return job
    finally:
        assert daemon.stop() == 0


def a_good_worker_succeeds(folder):
    job = run(folder, "work")
    assert job["status"] == "succeeded" and job["attempt"] == 1, job


def three_deaths_without_a_finished_step_are_poison(folder):
    job = run(folder, "crash")
    assert job["status"] == "failed" and job["error"]["code"] == "worker_crash", job
    assert job["attempt"] == 3, job


def an_exit_without_an_answer_is_a_death(folder):
    job = run(folder, "exit")
    assert job["error"]["code"] == "worker_crash" and "status 7" in job["error"]["message"], job


def deaths_with_a_finished_step_between_them_are_not_poison(folder):
    job = run(folder, "crash_after_step", steps=6)
    assert job["status"] == "succeeded" and job["attempt"] == 7, job


def a_silent_worker_is_killed_when_its_lease_ends(folder):
    started = time.monotonic()
    job = run(folder, "hang")
    assert job["status"] == "failed" and job["error"]["code"] in ("worker_crash", "worker_hung"), job
    assert job["attempt"] == 3 and time.monotonic() - started < 20, job


def a_stopped_worker_is_found_and_replaced(folder):
    daemon, model = service(folder)
    try:
        job_id = daemon.submit(spec(model, steps=200, step_ms=20))["id"]
        deadline = time.monotonic() + 30
        while daemon.job(job_id)["progress"].get("step", 0) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        worker = daemon.workers()[0]
        os.kill(worker, signal.SIGSTOP)
        job = daemon.wait(job_id)
        assert job["status"] == "succeeded" and job["attempt"] == 2, job
        assert not os.path.exists("/proc/%d" % worker)
    finally:
        assert daemon.stop() == 0


def rubbish_on_the_socket_is_a_death(folder):
    assert run(folder, "rubbish")["error"]["code"] == "worker_crash"


def a_frame_of_another_epoch_is_a_death(folder):
    assert run(folder, "wrong_epoch")["error"]["code"] == "worker_crash"


def a_flood_of_complaints_is_cut(folder):
    job = run(folder, "flood")
    assert job["status"] == "succeeded", job
    assert os.path.getsize(os.path.join(folder, "log")) < 200000


def a_wrong_hash_is_not_published(folder):
    job = run(folder, "lie")
    assert job["status"] == "failed" and job["error"]["code"] == "checksum_mismatch", job


def a_file_that_was_not_written_fails_the_job(folder):
    job = run(folder, "missing")
    assert job["status"] == "failed" and job["error"]["code"] == "checksum_mismatch", job
    assert "was not written" in job["error"]["message"], job


def endless_messages_are_cut(folder):
    daemon, model = service(folder)
    try:
        job = daemon.wait(daemon.submit(spec(model, "chatter"))["id"])
        assert job["status"] == "succeeded", job
        messages = [event for event in daemon.events(job["id"]) if event["type"] == "message"]
        assert 900 < len(messages) <= 1000, len(messages)
    finally:
        assert daemon.stop() == 0


def a_frame_of_no_reasonable_size_is_a_death(folder):
    assert run(folder, "long_frame")["error"]["code"] == "worker_crash"


def a_process_that_outlives_its_worker_holds_nothing_up(folder):
    started = time.monotonic()
    job = run(folder, "orphan")
    assert job["error"]["code"] == "worker_crash" and "status 7" in job["error"]["message"], job
    assert time.monotonic() - started < 50


def a_worker_that_stops_without_being_asked_has_died(folder):
    assert run(folder, "drained")["error"]["code"] == "worker_crash"


def a_worker_that_does_not_leave_after_its_last_word_is_ended(folder):
    job = run(folder, "overstay")
    assert job["status"] == "succeeded" and job["attempt"] == 1, job


def a_permanent_failure_is_not_tried_again(folder):
    job = run(folder, "fail")
    assert job["status"] == "failed" and job["attempt"] == 1, job
    assert job["error"]["code"] == "numeric" and job["error"]["stage"] == "score", job


def a_transient_failure_waits_and_is_tried_again(folder):
    daemon, model = service(folder)
    try:
        job_id = daemon.submit(spec(model, "fail_transient"))["id"]
        deadline = time.monotonic() + 30
        job = daemon.job(job_id)
        while not (job["status"] == "queued" and job["attempt"] == 1) and time.monotonic() < deadline:
            time.sleep(0.01)
            job = daemon.job(job_id)
        assert job["status"] == "queued" and job["attempt"] == 1, job
        daemon.request("POST", "/v1/jobs/%s/cancel" % job_id)
        assert daemon.wait(job_id)["status"] == "cancelled"
    finally:
        assert daemon.stop() == 0


def a_time_limit_ends_a_job(folder):
    started = time.monotonic()
    job = run(folder, "work", {"max_seconds": 1}, steps=100, step_ms=100)
    assert job["status"] == "failed" and job["error"]["code"] == "time_limit", job
    assert time.monotonic() - started < 15


def a_deaf_worker_is_cancelled_within_two_seconds(folder):
    daemon, model = service(folder)
    try:
        job_id = daemon.submit(spec(model, "deaf", steps=1000, step_ms=100))["id"]
        daemon.wait(job_id, ("running",))
        started = time.monotonic()
        daemon.request("POST", "/v1/jobs/%s/cancel" % job_id)
        daemon.wait(job_id, ("cancelled",))
        assert time.monotonic() - started < 2, time.monotonic() - started
    finally:
        assert daemon.stop() == 0


def a_bad_plan_is_an_answer(folder):
    daemon, model = service(folder)
    try:
        job = daemon.wait(daemon.submit(spec(model, plan="bad"))["id"])
        assert job["status"] == "failed" and job["error"]["code"] == "corrupt_file", job
        job = daemon.wait(daemon.submit(spec(model, plan="crash"))["id"])
        assert job["status"] == "failed" and job["error"]["code"] == "worker_crash", job
        job = daemon.wait(daemon.submit(spec(model, plan="rubbish"))["id"])
        assert job["status"] == "failed", job
        job = daemon.wait(daemon.submit(spec(model, plan="crash_once"))["id"])
        assert job["status"] == "succeeded", job
    finally:
        assert daemon.stop() == 0


def a_full_queue_of_questions_is_said_and_holds_nothing_up(folder):
    daemon, model = service(folder)
    answers = []

    def ask():
        try:
            daemon.request("POST", "/v1/pruning/jobs?dry_run=true", spec(model), timeout=100)
            answers.append(200)
        except Refused as refused:
            answers.append(refused.status)

    try:
        threads = [threading.Thread(target=ask) for _ in range(90)]
        for thread in threads:
            thread.start()
        job_id = daemon.submit(spec(model))["id"]  # is planned when there is room again
        for thread in threads:
            thread.join()
        assert answers.count(200) >= 64 and answers.count(200) + answers.count(503) == 90, answers
        assert daemon.wait(job_id)["status"] == "succeeded"
    finally:
        assert daemon.stop() == 0


def a_plan_beyond_the_memory_limit_is_refused(folder):
    daemon, model = service(folder, "--memory-bytes", "100M")
    try:
        job = daemon.wait(daemon.submit(spec(model, memory_bytes=200 << 20))["id"])
        assert job["status"] == "failed" and job["error"]["code"] == "out_of_memory", job
    finally:
        assert daemon.stop() == 0


def a_plan_is_told_what_the_attempt_may_use(folder):
    daemon, model = service(folder, "--memory-bytes", "100M", "--threads", "3")
    try:
        plan = daemon.wait(daemon.submit(spec(model, plan="echo"))["id"])["plan"]
        assert plan["threads"] == 3 and plan["limit"] == 100 << 20, plan
        limits = {"threads": 2, "max_memory_bytes": 1 << 20}
        plan = daemon.wait(daemon.submit(spec(model, limits=limits, plan="echo"))["id"])["plan"]
        assert plan["threads"] == 2 and plan["limit"] == 1 << 20, plan
        limits = {"threads": 99, "max_memory_bytes": 1 << 40}
        plan = daemon.wait(daemon.submit(spec(model, limits=limits, plan="echo"))["id"])["plan"]
        assert plan["threads"] == 3 and plan["limit"] == 100 << 20, plan
    finally:
        assert daemon.stop() == 0


def a_job_planned_under_a_larger_limit_does_not_wait_for_ever(folder):
    daemon, model = service(folder, "--memory-bytes", "1G")
    first = daemon.submit(spec(model, steps=1000, step_ms=100))["id"]
    daemon.wait(first, ("running",))
    large = daemon.submit(spec(model, memory_bytes=200 << 20))["id"]
    daemon.wait(large, ("queued",))
    assert daemon.stop() == 0
    daemon.flags[daemon.flags.index("1G")] = "100M"
    daemon.start()
    try:
        daemon.request("POST", "/v1/jobs/%s/cancel" % first)
        job = daemon.wait(large)
        assert job["status"] == "failed" and job["error"]["code"] == "out_of_memory", job
    finally:
        assert daemon.stop() == 0


def memory_reservations_keep_jobs_apart(folder):
    daemon, model = service(folder, "--memory-bytes", "100M", "--slots", "2")
    try:
        jobs = [daemon.submit(spec(model, steps=20, step_ms=20, memory_bytes=60 << 20))["id"] for _ in range(3)]
        most = 0
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            states = [daemon.job(job_id)["status"] for job_id in jobs]
            most = max(most, states.count("running"))
            if all(state == "succeeded" for state in states):
                break
            time.sleep(0.01)
        assert states == ["succeeded"] * 3 and most == 1, (states, most)
    finally:
        assert daemon.stop() == 0


def a_drain_releases_jobs_and_a_restart_continues_them(folder):
    daemon, model = service(folder)
    job_id = daemon.submit(spec(model, steps=60, step_ms=20))["id"]
    waiting = daemon.submit(spec(model))["id"]
    deadline = time.monotonic() + 30
    while daemon.job(job_id)["progress"].get("step", 0) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert daemon.stop() == 0
    daemon.start()
    try:
        job = daemon.wait(job_id)
        assert job["status"] == "succeeded", job
        assert daemon.wait(waiting)["status"] == "succeeded"
        messages = [event["message"] for event in daemon.events(job_id)]
        assert not any("died" in message for message in messages), messages
    finally:
        assert daemon.stop() == 0


def a_drain_does_not_wait_for_ever_and_a_second_signal_not_at_all(folder):
    daemon, model = service(folder, "--drain-ms", "500")
    job_id = daemon.submit(spec(model, "deaf", steps=1000, step_ms=100))["id"]
    daemon.wait(job_id, ("running",))
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < 10
    daemon.flags[daemon.flags.index("500")] = "60000"
    daemon.start()
    daemon.wait(job_id, ("running",))
    started = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    while True:  # until it drains: a new job is refused
        try:
            daemon.submit(spec(model))
        except Refused as refused:
            assert refused.status == 503, refused
            break
        assert time.monotonic() - started < 10
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(timeout=30) == 0
    assert time.monotonic() - started < 15
    daemon.start()
    daemon.request("POST", "/v1/jobs/%s/cancel" % job_id)
    assert daemon.wait(job_id)["status"] == "cancelled"
    assert daemon.stop() == 0


def an_earlier_result_is_a_model(folder):
    daemon, model = service(folder)
    try:
        first = daemon.wait(daemon.submit(spec(model))["id"])
        for _ in range(2):  # laid out as a folder once, found again the second time
            body = spec(model)
            body["model"] = "job:" + first["id"]
            job = daemon.wait(daemon.submit(body)["id"])
            assert job["status"] == "succeeded", job["error"]
        try:
            daemon.submit(dict(spec(model), model="job:job_00000000000000000000000000"))
            raise AssertionError("a job of nothing was taken")
        except Refused as refused:
            assert refused.status == 422, refused
    finally:
        assert daemon.stop() == 0


def workers_die_with_the_daemon(folder):
    daemon, model = service(folder)
    job_id = daemon.submit(spec(model, steps=1000, step_ms=100))["id"]
    daemon.wait(job_id, ("running",))
    deadline = time.monotonic() + 10
    while not daemon.workers() and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = daemon.workers()
    daemon.kill()
    deadline = time.monotonic() + 5
    while any(os.path.exists("/proc/%d" % worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert workers and not any(os.path.exists("/proc/%d" % worker) for worker in workers), workers
    daemon.start()
    daemon.request("POST", "/v1/jobs/%s/cancel" % job_id)
    assert daemon.wait(job_id)["status"] == "cancelled"
    assert daemon.stop() == 0


if __name__ == "__main__":
    main([
        a_good_worker_succeeds,
        three_deaths_without_a_finished_step_are_poison,
        an_exit_without_an_answer_is_a_death,
        deaths_with_a_finished_step_between_them_are_not_poison,
        a_silent_worker_is_killed_when_its_lease_ends,
        a_stopped_worker_is_found_and_replaced,
        rubbish_on_the_socket_is_a_death,
        a_frame_of_another_epoch_is_a_death,
        a_flood_of_complaints_is_cut,
        a_wrong_hash_is_not_published,
        a_file_that_was_not_written_fails_the_job,
        endless_messages_are_cut,
        a_frame_of_no_reasonable_size_is_a_death,
        a_process_that_outlives_its_worker_holds_nothing_up,
        a_worker_that_stops_without_being_asked_has_died,
        a_worker_that_does_not_leave_after_its_last_word_is_ended,
        a_permanent_failure_is_not_tried_again,
        a_transient_failure_waits_and_is_tried_again,
        a_time_limit_ends_a_job,
        a_deaf_worker_is_cancelled_within_two_seconds,
        a_bad_plan_is_an_answer,
        a_full_queue_of_questions_is_said_and_holds_nothing_up,
        a_plan_beyond_the_memory_limit_is_refused,
        a_plan_is_told_what_the_attempt_may_use,
        a_job_planned_under_a_larger_limit_does_not_wait_for_ever,
        memory_reservations_keep_jobs_apart,
        a_drain_releases_jobs_and_a_restart_continues_them,
        a_drain_does_not_wait_for_ever_and_a_second_signal_not_at_all,
        an_earlier_result_is_a_model,
        workers_die_with_the_daemon,
    ])

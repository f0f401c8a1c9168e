"""Cases for clients with greenstalk's interface: every call it offers, and what the protocol says of it.

Tubes have random names, so that the server need not be empty. A case raises at the first wrong answer.
"""

import time
import uuid

import greenstalk

JOB_KEYS = {
    "id", "tube", "state", "pri", "age", "delay", "ttr", "time-left", "file",
    "reserves", "timeouts", "releases", "buries", "kicks",
}
TUBE_KEYS = {
    "name", "current-jobs-urgent", "current-jobs-ready", "current-jobs-reserved", "current-jobs-delayed",
    "current-jobs-buried", "total-jobs", "current-using", "current-waiting", "current-watching", "pause",
    "cmd-delete", "cmd-pause-tube", "pause-time-left",
}


def refuses(error, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except error:
        return
    raise AssertionError(f"{call.__name__}{arguments} did not raise {error.__name__}")


def reserve_when_run_out(client):
    """Reserves while a reservation of the client itself runs out, which is announced meanwhile."""
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        try:
            return client.reserve(timeout=1)
        except greenstalk.DeadlineSoonError:
            time.sleep(0.05)
    raise AssertionError("a reservation did not run out")


def tube_of(case):
    return f"{case}-{uuid.uuid4().hex}"


def life_of_a_job(server, tube):
    with server.client(tube) as c:
        id = c.put("hello", priority=7, delay=0, ttr=30)
        job = c.reserve()
        assert (job.id, job.body) == (id, "hello")
        stats = c.stats_job(job)
        assert set(stats) == JOB_KEYS, stats
        expected = {"id": id, "tube": tube, "state": "reserved", "pri": 7, "delay": 0, "ttr": 30, "reserves": 1}
        assert {key: stats[key] for key in expected} == expected
        assert 28 <= stats["time-left"] <= 30
        c.delete(job)
        refuses(greenstalk.NotFoundError, c.delete, job)
        refuses(greenstalk.NotFoundError, c.stats_job, job)


def bodies_of_any_bytes(server, tube):
    with server.client(tube, encoding=None) as c:
        for body in (b"", b"\r\n", b"\x00\xff" * 1000, b"x" * c.stats()["max-job-size"]):
            c.put(body)
            job = c.reserve(timeout=5)
            assert job.body == body
            c.delete(job)
        refuses(greenstalk.JobTooBigError, c.put, b"x" * (c.stats()["max-job-size"] + 1))
        assert c.using() == tube, "the connection is in step behind a refused body"


def priority_before_age(server, tube):
    with server.client(tube) as c:
        ids = {priority: c.put(str(priority), priority=priority) for priority in (2, 0, 4294967295, 1)}
        for priority in (0, 1, 2, 4294967295):
            job = c.reserve(timeout=5)
            assert job.id == ids[priority]
            c.delete(job)


def release_goes_back_to_its_place(server, tube):
    with server.client(tube) as c:
        first, second = c.put("a"), c.put("b")
        job = c.reserve()
        assert job.id == first
        c.release(job)
        job = c.reserve()
        assert job.id == first
        c.release(job, priority=0, delay=600)
        stats = c.stats_job(first)
        assert (stats["state"], stats["pri"], stats["delay"], stats["releases"]) == ("delayed", 0, 600, 2)
        assert c.peek_delayed().id == first
        assert c.kick(10) == 1
        assert c.stats_job(first)["kicks"] == 1
        assert c.reserve().id == first
        c.delete(first)
        c.delete(second)


def delay_ends(server, tube):
    with server.client(tube) as c:
        id = c.put("later", delay=1)
        refuses(greenstalk.TimedOutError, c.reserve, timeout=0)
        job = c.reserve(timeout=5)
        assert job.id == id
        c.delete(job)


def what_is_due_ends_before_a_wait(server, tube):
    """Each time the job is ready in the moment in which the time of the wait is over, or just before."""
    with server.client(tube) as c, server.client(tube) as other:
        for _ in range(3):
            id = c.put("delayed", delay=1)
            job = c.reserve(timeout=1)
            assert job.id == id
            c.release(job, delay=1)
            assert c.reserve(timeout=1).id == id
            c.delete(id)
            id = c.put("paused")
            c.pause_tube(tube, 1)
            assert c.reserve(timeout=1).id == id
            c.delete(id)
            id = c.put("reserved", ttr=1)
            assert c.reserve(timeout=1).id == id
            assert other.reserve(timeout=1).id == id
            other.delete(id)


def bury_and_kick(server, tube):
    with server.client(tube) as c:
        ids = [c.put(str(n)) for n in range(3)]
        for id in ids:
            job = c.reserve()
            assert job.id == id
            c.bury(job, priority=3)
        delayed = c.put("delayed", delay=600)
        assert c.peek_buried().id == ids[0]
        assert c.stats_job(ids[0])["state"] == "buried"
        assert c.kick(2) == 2, "buried jobs only, oldest first"
        c.kick_job(ids[2])
        c.kick_job(delayed)
        refuses(greenstalk.NotFoundError, c.kick_job, delayed)
        refuses(greenstalk.NotFoundError, c.peek_buried)
        assert c.peek_ready().id == ids[0]
        for id in ids + [delayed]:
            c.delete(id)


def reserve_by_id(server, tube):
    with server.client(tube) as c, server.client(tube) as other:
        ready, delayed = c.put("ready"), c.put("delayed", delay=600)
        for id in (ready, delayed):
            assert c.reserve_job(id).id == id
            refuses(greenstalk.NotFoundError, other.reserve_job, id)
            refuses(greenstalk.NotFoundError, other.delete, id)
        c.delete(ready)
        c.delete(delayed)
        refuses(greenstalk.NotFoundError, c.reserve_job, ready)


def touch_and_time_to_run(server, tube):
    with server.client(tube) as c:
        id = c.put("slow", ttr=2)
        job = c.reserve()
        time.sleep(0.8)
        c.touch(job)
        assert c.stats_job(job)["time-left"] >= 1
        refuses(greenstalk.DeadlineSoonError, c.reserve, timeout=5)
        refuses(greenstalk.DeadlineSoonError, c.reserve, timeout=0)
        again = reserve_when_run_out(c)
        assert again.id == id
        assert c.stats_job(id)["timeouts"] == 1
        c.delete(again)


def a_closed_client_gives_back(server, tube):
    with server.client(tube) as c:
        id = c.put("x")
        with server.client(tube) as other:
            assert other.reserve().id == id
            refuses(greenstalk.NotFoundError, c.touch, greenstalk.Job(id, "x"))
            refuses(greenstalk.NotFoundError, c.bury, greenstalk.Job(id, "x"))
            refuses(greenstalk.NotFoundError, c.release, greenstalk.Job(id, "x"))
        job = c.reserve(timeout=5)
        assert job.id == id
        stats = c.stats_job(job)
        assert (stats["reserves"], stats["timeouts"], stats["releases"]) == (2, 0, 0)
        c.delete(job)


def watching_and_using(server, tube):
    with server.client(tube) as c:
        assert (c.using(), c.watching()) == (tube, [tube])
        second = tube + "-2"
        assert c.watch(second) == 2
        assert c.watch(second) == 2
        assert c.watching() == [tube, second]
        c.use(second)
        assert second in c.tubes() and "default" in c.tubes()
        id = c.put("x")
        assert c.reserve(timeout=5).id == id
        c.delete(id)
        assert c.ignore(second) == 1
        refuses(greenstalk.NotIgnoredError, c.ignore, tube)
        refuses(greenstalk.BadFormatError, c.use, "-" + tube)
        refuses(greenstalk.BadFormatError, c.watch, "x" * 201)
        refuses(greenstalk.NotFoundError, c.stats_tube, tube + "-none")


def pause(server, tube):
    with server.client(tube) as c:
        c.put("x")
        c.pause_tube(tube, 600)
        stats = c.stats_tube(tube)
        assert (stats["pause"], stats["cmd-pause-tube"]) == (600, 1)
        assert 598 <= stats["pause-time-left"] <= 600
        refuses(greenstalk.TimedOutError, c.reserve, timeout=0)
        c.pause_tube(tube, 0)
        c.delete(c.reserve(timeout=5))
        refuses(greenstalk.NotFoundError, c.pause_tube, tube + "-none", 1)


def stats_of_a_tube(server, tube):
    with server.client(tube) as c, server.client(tube) as other:
        c.put("urgent", priority=1)
        c.put("ready", priority=1024)
        c.put("delayed", delay=600)
        other.reserve()
        stats = c.stats_tube(tube)
        assert set(stats) == TUBE_KEYS, stats
        expected = {
            "name": tube, "current-jobs-urgent": 0, "current-jobs-ready": 1, "current-jobs-reserved": 1,
            "current-jobs-delayed": 1, "current-jobs-buried": 0, "total-jobs": 3, "current-using": 2,
            "current-watching": 2, "current-waiting": 0, "cmd-delete": 0, "cmd-pause-tube": 0, "pause": 0,
            "pause-time-left": 0,
        }
        assert stats == expected, stats


def stats_of_the_server(server, tube):
    with server.client(tube) as c:
        before = c.stats()
        missing = set(greenstalk.Stats.__annotations__) - set(before)
        assert not missing, missing
        id = c.put("x")
        assert c.peek(id).body == "x"
        refuses(greenstalk.NotFoundError, c.peek, 2**40)
        c.delete(id)
        after = c.stats()
        for key, change in (("cmd-put", 1), ("cmd-peek", 2), ("cmd-delete", 1), ("cmd-stats", 1), ("total-jobs", 1)):
            assert after[key] - before[key] >= change, key


CASES = [
    life_of_a_job, bodies_of_any_bytes, priority_before_age, release_goes_back_to_its_place, delay_ends,
    what_is_due_ends_before_a_wait, bury_and_kick, reserve_by_id, touch_and_time_to_run, a_closed_client_gives_back, watching_and_using, pause,
    stats_of_a_tube, stats_of_the_server,
]


def run(server):
    """`server.client(tube, **options)` connects a client that uses and watches that tube."""
    for case in CASES:
        case(server, tube_of(case.__name__))
        print(f"ok  {case.__name__}")

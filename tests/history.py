#!/usr/bin/env python3
"""What the clients of a queue saw, and the promises that it must bear out. It blames nobody for what a client could not learn.

  - every acknowledged put was delivered, and deleted in the end: nothing lost;
  - nothing was delivered by a reserve that began after the job's DELETED;
  - no job was certainly held by two connections at one time;
  - an id belongs to one body, and a body to one id;
  - ids ascend: a put that began after another's INSERTED has the greater one;
  - no job was delivered while a better one (of a lesser priority; of the same, with a lesser id) certainly waited.

Run by itself, it tests that each of these can fail: python3 tests/history.py
"""

import collections
import heapq
import threading
import unittest

# Times are of one monotonic clock: `invoked` before a command was sent, `done` and `held` after its reply had come.
Put = collections.namedtuple("Put", "body invoked done id priority delay")
# What a reserve gave, held until the client acted or the time to run was over. `priority` and `reserves` are what the job
# said of itself while it was held; None where that was not learned in time.
Hold = collections.namedtuple("Hold", "id body node invoked held until priority reserves")
Delete = collections.namedtuple("Delete", "id invoked done outcome")


class History:
    def __init__(self):
        self.lock = threading.Lock()
        self.puts, self.holds, self.deletes = [], [], []
        self.odd = []

    def add(self, kind, record):
        with self.lock:
            getattr(self, kind).append(record)


def check(history, kills):
    """What is wrong, and how many deliveries could have been in the wrong order. `kills`: when each node was killed."""
    faults = list(history.odd)
    faults += identities(history)
    faults += losses(history)
    faults += returns(history)
    faults += shared_holds(history, kills)
    faults += descending_ids(history)
    overtaken, contested = overtakings(history)
    return faults + overtaken, contested


def identities(history):
    bodies, ids = {}, {}
    put_bodies = {put.body for put in history.puts}
    for hold in history.holds:
        if bodies.setdefault(hold.id, hold.body) != hold.body:
            yield f"job {hold.id} was delivered with two bodies: {bodies[hold.id]}, {hold.body}"
        if ids.setdefault(hold.body, hold.id) != hold.id:
            yield f"body {hold.body} was delivered under two ids: {ids[hold.body]}, {hold.id}"
        if hold.body not in put_bodies:
            yield f"job {hold.id} has a body that nobody put: {hold.body}"
    for put in history.puts:
        if put.id is not None and bodies.get(put.id, put.body) != put.body:
            yield f"put of {put.body} was answered with id {put.id}, which has body {bodies[put.id]}"


def losses(history):
    delivered = {hold.id for hold in history.holds}
    gone = {delete.id for delete in history.deletes if delete.outcome in ("DELETED", "unknown")}
    for put in history.puts:
        if put.id is None:
            continue
        if put.id not in delivered:
            yield f"LOST: {put.body} (job {put.id}) was acknowledged and never delivered"
        elif put.id not in gone:
            yield f"LOST: {put.body} (job {put.id}) was delivered, but neither deleted nor left in the queue"


def returns(history):
    deleted = {}
    for delete in history.deletes:
        if delete.outcome == "DELETED":
            if delete.id in deleted:
                yield f"job {delete.id} was deleted twice"
            deleted[delete.id] = delete
    for hold in history.holds:
        delete = deleted.get(hold.id)
        if delete and hold.invoked > delete.done:
            yield f"job {hold.id} was delivered {hold.invoked - delete.done:.3f} s after its DELETED"


def shared_holds(history, kills):
    """What a client certainly holds: from the reply on, until it acts, its time is over, or its node is killed."""
    windows = collections.defaultdict(list)
    for hold in history.holds:
        end = min([hold.until] + [at for at in kills.get(hold.node, ()) if at > hold.invoked])
        windows[hold.id].append((hold.held, end, hold))
    for job, held in windows.items():
        held.sort()
        for (_, end, first), (start, _, second) in zip(held, held[1:]):
            if start < end:
                yield (f"job {job} was held twice at once, by clients of nodes {first.node} and {second.node}, for "
                       f"{end - start:.3f} s: {first}, then {second}")


def descending_ids(history):
    """On one shard ids are given in the order of the log, and what was answered is in it before what is sent later."""
    known = [put for put in history.puts if put.id is not None]
    answered = sorted(known, key=lambda put: put.done)
    before, greatest = 0, None
    for put in sorted(known, key=lambda put: put.invoked):
        while answered[before].done < put.invoked:
            greatest = max(greatest or answered[before], answered[before], key=lambda put: put.id)
            before += 1
        if greatest is not None and put.id < greatest.id:
            yield f"{put.body} became job {put.id} after {greatest.body} had become job {greatest.id}"


def overtakings(history):
    """Deliveries while a better job certainly waited, and of how many deliveries that could be told.

    A reserve takes its job at a moment between its call and its reply. A job certainly waited all that time if its
    INSERTED had come before the call, and the reserve that first took it was called after the reply. Which one first took
    it the job itself knows: it counts reservations, also those whose reply reached nobody (only UNRESERVE takes one back,
    which is for waits on several shards, and here is one). From then on nothing certain is known: a job is put back when
    its time to run is over, or its session closed, at moments that no client sees. When a delay is over is for the
    leader's clock to say. So only jobs that were put ready are taken as waiting, and only until they are first taken.
    """
    faults, contested = [], 0
    first = {hold.id: hold for hold in history.holds if hold.reserves == 1}
    waits = sorted((put.done, (put.priority, put.id), first[put.id].invoked)
                   for put in history.puts if put.delay == 0 and put.id in first)
    begun, waiting = 0, []
    for hold in sorted((hold for hold in history.holds if hold.priority is not None), key=lambda hold: hold.invoked):
        while begun < len(waits) and waits[begun][0] < hold.invoked:
            heapq.heappush(waiting, waits[begun][1:])
            begun += 1
        unsure = []
        while waiting and waiting[0][1] <= hold.held:
            wait = heapq.heappop(waiting)
            # It may have waited throughout a later and shorter reserve.
            if wait[1] > hold.invoked:
                unsure.append(wait)
        if waiting:
            contested += 1
            (priority, job), _ = waiting[0]
            if (priority, job) < (hold.priority, hold.id):
                faults.append(f"job {hold.id} of priority {hold.priority} was delivered while job {job} of priority "
                              f"{priority} waited")
        for wait in unsure:
            heapq.heappush(waiting, wait)
    return faults, contested


class EachClaimCanFail(unittest.TestCase):
    """A history of three jobs in which all is well, and what one change makes of it."""

    def setUp(self):
        self.history = History()
        self.history.puts = [
            Put("a", 0.0, 1.0, 1, 10, 0),
            Put("b", 2.0, 3.0, 2, 10, 0),
            Put("c", 2.5, 3.5, 3, 0, 0),
            Put("unknown", 3.0, None, None, 0, 0),
        ]
        self.history.holds = [
            Hold(3, "c", 1, 4.0, 4.5, 4.6, 0, 1),
            Hold(1, "a", 2, 5.0, 5.5, 5.6, 10, 1),
            Hold(2, "b", 3, 6.0, 6.5, 6.6, 10, 1),
        ]
        self.history.deletes = [Delete(3, 4.6, 4.7, "DELETED"), Delete(1, 5.6, 5.7, "DELETED"),
                                Delete(2, 6.6, 6.7, "DELETED")]
        self.kills = {}

    def change(self, kind, at, **fields):
        records = getattr(self.history, kind)
        records[at] = records[at]._replace(**fields)

    def found(self):
        return check(self.history, self.kills)[0]

    def assert_blamed(self, *parts):
        found = self.found()
        self.assertEqual(len(found), len(parts), found)
        for fault, part in zip(found, parts):
            self.assertIn(part, fault)

    def test_a_history_in_which_all_is_well_is_not_blamed(self):
        self.assertEqual(check(self.history, self.kills), ([], 2))

    def test_what_a_client_did_not_expect_is_told(self):
        self.history.odd.append("put answered NONSENSE")
        self.assert_blamed("NONSENSE")

    def test_a_job_that_was_never_delivered_is_lost(self):
        del self.history.holds[2]
        self.assert_blamed("never delivered")

    def test_a_job_that_nobody_deleted_is_lost(self):
        self.change("deletes", 1, outcome="NOT_FOUND")
        self.assert_blamed("neither deleted nor left")

    def test_an_unknown_outcome_is_not_a_loss(self):
        self.change("deletes", 1, outcome="unknown", done=None)
        self.assert_blamed()

    def test_a_body_under_another_id_is_noticed(self):
        self.change("holds", 1, body="b")
        self.assert_blamed("under two ids", "answered with id 1")

    def test_a_job_with_two_bodies_is_noticed(self):
        self.history.holds.append(Hold(1, "unknown", 1, 5.55, 5.56, 5.56, 10, 2))
        self.assert_blamed("with two bodies", "held twice")

    def test_a_body_that_nobody_put_is_noticed(self):
        self.history.holds.append(Hold(9, "strange", 1, 5.0, 5.5, 5.6, None, None))
        self.assert_blamed("nobody put")

    def test_two_deletions_are_noticed(self):
        self.history.deletes.append(Delete(1, 8.0, 9.0, "DELETED"))
        self.assert_blamed("deleted twice")

    def test_a_delivery_after_its_deleted_is_noticed(self):
        self.history.holds.append(Hold(1, "a", 1, 5.8, 5.9, 5.9, 10, 2))
        self.assert_blamed("after its DELETED")

    def test_a_reserve_that_began_before_the_deleted_is_not_blamed(self):
        self.history.holds.append(Hold(1, "a", 1, 5.65, 5.9, 5.9, 10, 2))
        self.assert_blamed()

    def test_two_holds_at_one_time_are_noticed_unless_the_first_ones_node_was_killed_between(self):
        self.change("holds", 1, until=5.6)
        self.history.holds.append(Hold(1, "a", 3, 5.4, 5.58, 5.6, 10, 2))
        self.assert_blamed("held twice")
        self.kills = {2: [5.56]}
        self.assert_blamed()
        self.kills = {1: [5.56]}
        self.assert_blamed("held twice")

    def test_ids_that_descend_are_noticed_where_one_put_was_answered_before_the_other_began(self):
        self.change("puts", 1, id=3)
        self.change("puts", 2, id=2)
        self.change("holds", 0, id=2)
        self.change("holds", 2, id=3)
        self.change("deletes", 0, id=2)
        self.change("deletes", 2, id=3)
        self.assert_blamed()
        self.change("puts", 2, invoked=3.2)
        self.assert_blamed("c became job 2 after b had become job 3")

    def swap_times(self, one, other):
        times = [self.history.holds[at] for at in (one, other)]
        for at, taken in ((one, times[1]), (other, times[0])):
            self.change("holds", at, invoked=taken.invoked, held=taken.held, until=taken.until)
            job = self.history.holds[at].id
            deleted = next(n for n, delete in enumerate(self.history.deletes) if delete.id == job)
            self.change("deletes", deleted, invoked=taken.until, done=taken.until + 0.1)

    def test_a_job_that_overtakes_an_earlier_one_of_its_priority_is_noticed(self):
        self.swap_times(1, 2)
        self.assert_blamed("job 2 of priority 10 was delivered while job 1 of priority 10")

    def test_a_job_that_overtakes_one_of_a_better_priority_is_noticed(self):
        self.swap_times(0, 1)
        self.assert_blamed("job 1 of priority 10 was delivered while job 3 of priority 0")

    def test_reserves_at_one_time_may_end_in_either_order(self):
        self.swap_times(1, 2)
        self.change("holds", 1, invoked=5.4)
        self.assert_blamed()

    def test_a_put_whose_inserted_came_later_was_not_certainly_waiting(self):
        self.swap_times(0, 1)
        self.change("puts", 2, done=4.1)
        self.assert_blamed()

    def test_a_delayed_job_was_not_certainly_waiting(self):
        self.swap_times(0, 1)
        self.change("puts", 2, delay=1)
        self.assert_blamed()

    def test_a_job_that_was_taken_before_was_not_certainly_waiting(self):
        self.swap_times(0, 1)
        self.change("holds", 0, reserves=2)
        self.assert_blamed()

    def test_a_job_that_was_given_back_has_the_priority_that_it_says(self):
        self.history.holds.append(Hold(3, "c", 1, 5.8, 5.9, 5.95, 2000, 2))
        self.change("deletes", 0, invoked=5.95, done=5.97)
        self.assert_blamed("job 3 of priority 2000 was delivered while job 2 of priority 10")
        self.change("holds", 3, priority=5)
        self.assert_blamed()

    def test_a_short_reserve_within_a_long_one_is_judged_too(self):
        # The long one could have come before job 1 was taken or after it; the short one came while 1 waited.
        self.history.holds = [
            Hold(3, "c", 1, 4.0, 9.0, 9.1, 0, 1),
            Hold(2, "b", 3, 4.5, 5.0, 5.1, 10, 1),
            Hold(1, "a", 2, 6.0, 6.5, 6.6, 10, 1),
        ]
        self.history.deletes = [Delete(job, 10.0, 11.0, "DELETED") for job in (1, 2, 3)]
        self.assert_blamed("job 2 of priority 10 was delivered while job 1")


if __name__ == "__main__":
    unittest.main()

"""Direct delivery: in order per dedup key, otherwise side by side, and what a retried batch does not send again."""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

import pytest

import delivery
from delivery import Direct, Job, Memory
from errors import Deferred, Exchange, NotSentError, Rejected
from pagerduty import Receipt
from support import Clock

HOUR = 3600.0
RECEIPT = Receipt("key-of-pagerduty", Exchange(202, 0.1, 1))


def job(body: str, key: str | None = None, message_id: str | None = None) -> Job:
    return Job("alert", body.encode(), key, message_id)


def change(body: str, message_id: str | None = None) -> Job:
    return Job("change", body.encode(), None, message_id)


class PagerDuty:
    """Takes every job but those whose body is in `failures`; `sent` has what it was sent, in order."""

    def __init__(self, failures: dict[str, NotSentError] | None = None) -> None:
        self.failures = failures or {}
        self.sent: list[str] = []

    def __call__(self, job: Job) -> Receipt:
        body = job.body.decode()
        self.sent.append(body)
        if body in self.failures:
            raise self.failures[body]
        return RECEIPT


def limited() -> Deferred:
    return Deferred("pagerduty_rate_limited", "PagerDuty limits the rate")


def refused() -> Rejected:
    return Rejected("pagerduty_rejected", "PagerDuty refused it")


def codes(deliveries: Sequence[object]) -> list[str]:
    return [d.code if isinstance(d, NotSentError) else "posted" if d else "skipped" for d in deliveries]


# -- order -----------------------------------------------------------------------------------------------------------


def test_nothing_is_delivered_of_nothing() -> None:
    assert Direct().deliver("default", [], PagerDuty()) == []


def test_one_job_has_its_receipt() -> None:
    assert Direct().deliver("default", [job("a", "disk")], PagerDuty()) == [RECEIPT]


def test_every_job_has_what_became_of_it_at_its_own_position() -> None:
    receipts = {f"{n}": Receipt(f"key-{n}", Exchange(202, 0.1, 1)) for n in range(200)}
    jobs = [job(body, f"key-{n % 7}" if n % 3 else None) for n, body in enumerate(receipts)]

    delivered = Direct().deliver("default", jobs, lambda job: receipts[job.body.decode()])

    assert delivered == list(receipts.values())


def test_jobs_of_one_key_go_out_one_after_the_other_in_their_order() -> None:
    pagerduty = PagerDuty()

    Direct().deliver("default", [job(str(n), "disk") for n in range(100)], pagerduty)

    assert pagerduty.sent == [str(n) for n in range(100)]


def test_jobs_of_each_of_many_keys_go_out_in_their_order() -> None:
    sent: dict[str | None, list[int]] = defaultdict(list)

    def send(job: Job) -> Receipt:
        sent[job.dedup_key].append(int(job.body))
        return RECEIPT

    Direct().deliver("default", [job(str(n), f"key-{n % 10}") for n in range(200)], send)

    assert sent == {f"key-{key}": list(range(key, 200, 10)) for key in range(10)}


def test_two_jobs_of_one_key_are_never_on_their_way_at_once() -> None:
    # Two keys with two jobs each. The barrier lets the first of each key pass only together with the other's, so both
    # keys are being sent; the second of a key, were it sent beside its first, would find the key taken.
    barrier = threading.Barrier(2)
    taken = {"disk": threading.Lock(), "net": threading.Lock()}

    def send(job: Job) -> Receipt:
        lock = taken[job.dedup_key or ""]
        assert lock.acquire(blocking=False)
        barrier.wait(timeout=5)
        lock.release()
        return RECEIPT

    jobs = [job("a", "disk"), job("b", "disk"), job("c", "net"), job("d", "net")]

    assert Direct().deliver("default", jobs, send) == [RECEIPT] * 4


@pytest.mark.parametrize("parties", [2, 10, 30])
@pytest.mark.parametrize("make", [lambda n: job("a", f"key-{n}"), lambda n: job(f"{n}"), lambda n: change(f"{n}")])
def test_jobs_of_different_keys_and_of_none_go_out_side_by_side(make: Callable[[int], Job], parties: int) -> None:
    # No call returns before all have begun.
    barrier = threading.Barrier(parties)

    def send(_: Job) -> Receipt:
        barrier.wait(timeout=5)
        return RECEIPT

    assert Direct().deliver("default", [make(n) for n in range(parties)], send) == [RECEIPT] * parties


def test_several_batches_are_delivered_by_one_object() -> None:
    direct, pagerduty = Direct(), PagerDuty()

    for batch in range(3):
        direct.deliver("default", [job(f"{batch}-{n}", f"key-{n}") for n in range(5)], pagerduty)

    assert sorted(pagerduty.sent) == [f"{batch}-{n}" for batch in range(3) for n in range(5)]


# -- after a failure -------------------------------------------------------------------------------------------------


def test_after_a_deferred_job_the_later_ones_of_its_key_are_not_sent() -> None:
    pagerduty = PagerDuty({"b": limited()})

    deliveries = Direct().deliver("default", [job(body, "disk") for body in "abcd"], pagerduty)

    assert pagerduty.sent == ["a", "b"]
    assert codes(deliveries) == ["posted", "pagerduty_rate_limited", "held_back", "held_back"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pagerduty_rate_limited", 429),
        ("pagerduty_unavailable", 503),
        ("pagerduty_timeout", 504),
        ("out_of_time", 504),
        ("internal_error", 500),
        ("routing_key_refused", 503),
    ],
)
def test_what_is_held_back_has_the_status_of_what_holds_it_back(code: str, status: int) -> None:
    pagerduty = PagerDuty({"a": Deferred(code, "Not now")})

    _, *held_back = Direct().deliver("default", [job(body, "disk") for body in "abc"], pagerduty)

    assert [(d.code, d.status) for d in held_back if isinstance(d, Deferred)] == [("held_back", status)] * 2


def test_a_deferred_job_holds_up_no_other_key() -> None:
    pagerduty = PagerDuty({"a": limited()})
    jobs = [job("a", "disk"), job("b", "net"), job("c", "disk"), job("d"), change("e"), job("f", "net")]

    deliveries = Direct().deliver("default", jobs, pagerduty)

    assert sorted(pagerduty.sent) == ["a", "b", "d", "e", "f"]
    assert codes(deliveries) == ["pagerduty_rate_limited", "posted", "held_back", "posted", "posted", "posted"]


def test_jobs_without_a_key_hold_up_nobody() -> None:
    pagerduty = PagerDuty({"a": limited()})

    deliveries = Direct().deliver("default", [job("a"), job("b"), change("a"), change("c")], pagerduty)

    assert codes(deliveries) == ["pagerduty_rate_limited", "posted", "pagerduty_rate_limited", "posted"]


def test_a_job_that_pagerduty_refuses_for_good_does_not_hold_up_its_key() -> None:
    pagerduty = PagerDuty({"a": refused()})

    deliveries = Direct().deliver("default", [job(body, "disk") for body in "abc"], pagerduty)

    assert pagerduty.sent == ["a", "b", "c"]
    assert codes(deliveries) == ["pagerduty_rejected", "posted", "posted"]


# -- memory: a retried batch -----------------------------------------------------------------------------------------


class Retry:
    """A batch that is delivered once with failures and once more without; `again` is what was then sent."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.direct = Direct(Memory(self.clock))

    def first(self, jobs: Sequence[Job], failures: dict[str, NotSentError], service: str = "default") -> None:
        self.direct.deliver(service, jobs, PagerDuty(failures))

    def again(self, jobs: Sequence[Job], service: str = "default") -> list[str]:
        pagerduty = PagerDuty()
        self.direct.deliver(service, jobs, pagerduty)
        return sorted(pagerduty.sent)


def test_a_retried_batch_sends_only_what_was_not_delivered() -> None:
    jobs = [
        job("trigger", "disk", "m-1"),
        job("resolve", "disk", "m-2"),
        change("deploy", "m-3"),
        job("x", "net", "m-4"),
    ]
    retry = Retry()
    retry.first(jobs, {"x": limited()})

    assert retry.again(jobs) == ["x"]


def test_what_a_retried_batch_skips_is_told_from_what_it_sends() -> None:
    jobs = [job("a", "disk", "m-1"), job("b", "disk", "m-2")]
    retry = Retry()
    retry.first(jobs, {"b": limited()})

    assert retry.direct.deliver("default", jobs, PagerDuty()) == [None, RECEIPT]


def test_what_was_held_back_is_sent_with_the_retry() -> None:
    jobs = [job("a", "disk", "m-1"), job("b", "disk", "m-2"), job("c", "disk", "m-3")]
    retry = Retry()
    retry.first(jobs, {"b": limited()})

    assert retry.again(jobs) == ["b", "c"]


def test_a_retry_may_be_grouped_differently() -> None:
    retry = Retry()
    retry.first([job("a", "disk", "m-1"), job("b", "net", "m-2")], {"b": limited()})

    assert retry.again([job("c", "cpu", "m-3"), job("b", "net", "m-2")]) == ["b", "c"]
    assert retry.again([job("a", "disk", "m-1")]) == []


def test_a_second_retry_skips_what_the_first_batch_and_the_first_retry_delivered() -> None:
    jobs = [job("a", "disk", "m-1"), job("b", "net", "m-2"), job("c", "cpu", "m-3")]
    retry = Retry()
    retry.first(jobs, {"b": limited(), "c": limited()})
    retry.first(jobs, {"c": limited()})

    assert retry.again(jobs) == ["c"]


@pytest.mark.parametrize("failures", [{}, {"b": refused()}], ids=["delivered", "refused for good"])
def test_a_batch_that_is_not_to_be_sent_again_is_not_remembered(failures: dict[str, NotSentError]) -> None:
    # The same event once more is then the sender's wish, not its retry.
    jobs = [job("a", "disk", "m-1"), job("b", "net", "m-2")]
    retry = Retry()
    retry.first(jobs, failures)

    assert retry.again(jobs) == ["a", "b"]


def test_what_was_refused_for_good_is_not_taken_for_delivered() -> None:
    jobs = [job("a", "disk", "m-1"), job("b", "net", "m-2")]
    retry = Retry()
    retry.first(jobs, {"a": refused(), "b": limited()})

    assert retry.again(jobs) == ["a", "b"]


@pytest.mark.parametrize("later", [0.0, 10.0, HOUR - 1])
def test_within_an_hour_a_delivery_is_remembered(later: float) -> None:
    jobs = [job("a", "disk", "m-1"), job("b", "net", "m-2")]
    retry = Retry()
    retry.first(jobs, {"b": limited()})

    retry.clock.now += later

    assert retry.again(jobs) == ["b"]


@pytest.mark.parametrize("later", [HOUR, HOUR + 1, 1_000_000.0])
def test_after_an_hour_a_delivery_is_forgotten(later: float) -> None:
    jobs = [job("a", "disk", "m-1"), job("b", "net", "m-2")]
    retry = Retry()
    retry.first(jobs, {"b": limited()})

    retry.clock.now += later

    assert retry.again(jobs) == ["a", "b"]


def test_every_deferred_retry_keeps_the_memory_for_another_hour() -> None:
    jobs = [job("a", "disk", "m-1"), job("b", "net", "m-2")]
    retry = Retry()
    for _ in range(3):
        retry.first(jobs, {"b": limited()})
        retry.clock.now += HOUR - 1

    assert retry.again(jobs) == ["b"]


def test_without_a_message_id_nothing_is_remembered() -> None:
    # Nothing tells a retry from a second event that says the same.
    jobs = [job("a", "disk"), change("b"), job("c", "net", "m-1")]
    retry = Retry()
    retry.first(jobs, {"c": limited()})

    assert retry.again(jobs) == ["a", "b", "c"]


DELIVERED = Job("alert", b'{"a":1}', "disk", "m-1")


@pytest.mark.parametrize(
    ("service", "other"),
    [
        ("payments", DELIVERED),
        ("default", Job("alert", b'{"a":1}', "disk", "m-2")),
        ("default", Job("alert", b'{"a":2}', "disk", "m-1")),
        ("default", Job("change", b'{"a":1}', None, "m-1")),
        ("default", Job("alert", b'{"a":1}', "disk", None)),
    ],
    ids=["another service", "another id", "another event of the same id", "another kind", "no id"],
)
def test_only_the_same_event_of_the_same_service_is_skipped(service: str, other: Job) -> None:
    retry = Retry()
    retry.first([DELIVERED, job("b", "net", "m-9")], {"b": limited()})

    assert retry.again([other], service) == [other.body.decode()]


def test_a_resolve_that_reuses_its_triggers_message_id_is_sent() -> None:
    retry = Retry()
    retry.first([job("trigger", "disk", "m-1"), job("x", "net", "m-9")], {"x": limited()})

    assert retry.again([job("trigger", "disk", "m-1"), job("resolve", "disk", "m-1")]) == ["resolve"]


def test_the_order_of_a_key_is_kept_when_its_first_job_is_skipped() -> None:
    jobs = [job("a", "disk", "m-1"), job("b", "disk", "m-2"), job("c", "disk", "m-3")]
    retry = Retry()
    retry.first(jobs, {"b": limited()})
    pagerduty = PagerDuty()

    retry.direct.deliver("default", jobs, pagerduty)

    assert pagerduty.sent == ["b", "c"]


# -- memory: by itself -----------------------------------------------------------------------------------------------


def test_an_empty_memory_holds_nothing() -> None:
    assert ("default", DELIVERED) not in Memory(Clock())


def test_what_was_added_is_in_the_memory() -> None:
    memory = Memory(Clock())
    memory.add("default", DELIVERED)

    assert ("default", DELIVERED) in memory


def test_when_the_memory_is_full_the_oldest_is_forgotten() -> None:
    memory = Memory(Clock())
    jobs = [job("a", "disk", f"m-{n}") for n in range(delivery.MEMORY_SIZE + 1)]
    for item in jobs:
        memory.add("default", item)

    assert [("default", item) in memory for item in (jobs[0], jobs[1], jobs[-1])] == [False, True, True]


def test_what_is_added_again_is_no_longer_the_oldest() -> None:
    memory = Memory(Clock())
    jobs = [job("a", "disk", f"m-{n}") for n in range(delivery.MEMORY_SIZE + 1)]
    for item in [*jobs[:-1], jobs[0], jobs[-1]]:
        memory.add("default", item)

    assert [("default", item) in memory for item in (jobs[0], jobs[1], jobs[2])] == [True, False, True]


def test_the_memory_holds_ten_thousand_deliveries_of_an_hour() -> None:
    assert (delivery.MEMORY_SIZE, delivery.MEMORY_SECONDS) == (10_000, HOUR)


def test_a_clock_that_was_set_back_makes_the_memory_forget_rather_than_lose_an_event() -> None:
    clock = Clock()
    memory = Memory(clock)
    memory.add("default", DELIVERED)

    clock.now -= 1

    assert ("default", DELIVERED) not in memory


def test_a_message_id_with_half_a_surrogate_pair_is_remembered_like_any_other() -> None:
    memory = Memory(Clock())
    odd = job("a", "disk", "m-\ud83d")
    memory.add("default", odd)

    assert ("default", odd) in memory

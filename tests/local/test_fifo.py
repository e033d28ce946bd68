"""SQS's rules for FIFO queues, on which the local stack, the simulation of storms and the tests of function/ rely."""

from typing import Any

import pytest

from local.fifo import FifoQueue, SqsError
from tests.support import Clock


@pytest.fixture
def queue(clock: Clock) -> FifoQueue:
    return FifoQueue(clock)


def send(queue: FifoQueue, *bodies: str) -> None:
    """Send messages, each to the group that its first letter names."""
    for body in bodies:
        queue.send(body, {}, body[0], f"{body} {len(queue.peek())}")


def receive(queue: FifoQueue, count: int = 10, seconds: float = 120) -> dict[str, str]:
    """Receive messages; return their handles by their bodies."""
    return {message.body: message.handle for message in queue.receive(count, seconds)}


def bodies(queue: FifoQueue, count: int = 10) -> list[str]:
    return [*receive(queue, count)]


def refused(call: Any, *arguments: object) -> bool:
    with pytest.raises(SqsError, match="is invalid"):
        call(*arguments)
    return True


def test_the_oldest_group_is_received_first_and_as_much_of_it_as_possible(queue: FifoQueue) -> None:
    send(queue, "a1", "b1", "a2", "c1")

    assert bodies(queue, 3) == ["a1", "a2", "b1"]
    assert bodies(queue, 3) == ["c1"]


def test_a_group_is_locked_until_its_last_message_in_flight_is_deleted(queue: FifoQueue) -> None:
    send(queue, "a1", "a2")
    received = receive(queue)
    send(queue, "a3", "b1")

    assert bodies(queue) == ["b1"]
    queue.delete(received["a1"])
    assert bodies(queue) == []
    queue.delete(received["a2"])
    assert bodies(queue) == ["a3"]


def test_what_is_not_deleted_is_received_again_before_what_was_sent_later(queue: FifoQueue, clock: Clock) -> None:
    send(queue, "a1", "a2", "a3")
    queue.delete(receive(queue, 3)["a1"])
    send(queue, "a4")

    clock.now += 119.9
    assert bodies(queue) == []
    clock.now += 0.1
    assert bodies(queue) == ["a2", "a3", "a4"]


@pytest.mark.parametrize("state", ["waiting", "in flight", "deleted"])
def test_a_duplicate_within_its_group_is_accepted_and_not_delivered(queue: FifoQueue, state: str) -> None:
    first = queue.send("a1", {}, "a", "one")
    received = receive(queue) if state != "waiting" else {}
    if state == "deleted":
        queue.delete(received["a1"])
    second = queue.send("another body", {}, "a", "one")

    assert (second.id, second.sequence) == (first.id, first.sequence)
    assert bodies(queue) == (["a1"] if state == "waiting" else [])


@pytest.mark.parametrize(("seconds", "delivered"), [(299.9, []), (300, ["again"])])
def test_a_deduplication_id_is_remembered_for_five_minutes_from_its_acceptance(
    queue: FifoQueue, clock: Clock, seconds: float, delivered: list[str]
) -> None:
    queue.send("a1", {}, "a", "one")
    clock.now += seconds / 2
    queue.send("duplicate", {}, "a", "one")
    clock.now += seconds / 2
    queue.delete(receive(queue)["a1"])
    queue.send("again", {}, "a", "one")

    assert bodies(queue) == delivered


def test_a_receipt_handle_is_valid_until_the_message_is_visible_again(queue: FifoQueue, clock: Clock) -> None:
    send(queue, "a1")
    late = receive(queue)["a1"]
    clock.now += 120
    assert refused(queue.delete, late)

    latest = receive(queue)["a1"]
    assert refused(queue.delete, late)
    queue.delete(latest)
    queue.delete(latest)
    assert queue.counts() == (0, 0)


def test_the_visibility_of_a_message_in_flight_can_be_changed_within_12_hours_of_its_receive(
    queue: FifoQueue, clock: Clock
) -> None:
    send(queue, "a1")
    handle = receive(queue)["a1"]
    queue.change_visibility(handle, 600)
    queue.change_visibility(handle, 300)
    clock.now += 299
    assert bodies(queue) == []
    queue.change_visibility(handle, 0)
    assert refused(queue.change_visibility, handle, 10)

    handle = receive(queue)["a1"]
    clock.now += 60
    assert refused(queue.change_visibility, handle, 43_141)
    queue.change_visibility(handle, 43_140)
    queue.delete(handle)
    assert refused(queue.change_visibility, handle, 10)


def test_a_look_into_the_queue_shows_which_messages_are_delayed_and_until_when(queue: FifoQueue, clock: Clock) -> None:
    send(queue, "in flight", "delayed", "waiting")
    queue.change_visibility(receive(queue, 2)["delayed"], 100)

    seen = [(each.body, each.receive_count, each.is_hidden, each.is_delayed) for each in queue.peek()]
    assert seen == [("in flight", 1, True, False), ("delayed", 1, True, True), ("waiting", 0, False, False)]
    assert queue.peek()[1].hidden_until == clock.now + 100
    assert queue.counts() == (1, 2)
    clock.now += 120
    assert queue.counts() == (3, 0)
    assert not any(each.is_hidden or each.is_delayed for each in queue.peek())


def test_a_message_received_too_often_is_moved_to_the_dead_letters_and_its_group_continues(clock: Clock) -> None:
    dead_letters = FifoQueue(clock)
    queue = FifoQueue(clock, dead_letters=dead_letters, max_receives=2)
    sent = queue.send("poison", {}, "p", "one")
    send(queue, "p2")
    for _ in range(2):
        assert bodies(queue, 1) == ["poison"]
        clock.now += 120

    assert bodies(queue) == ["p2"]
    assert queue.counts() == (0, 1)
    (letter,) = dead_letters.receive(10, 120)
    assert (letter.id, letter.group) == (sent.id, "p")
    assert queue.send("duplicate", {}, "p", "one").sequence == sent.sequence

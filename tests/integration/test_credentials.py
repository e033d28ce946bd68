"""Tokens and routing keys: cached, rotated, revoked, and served while SSM fails. SSM is moto's server."""

import io
import json
import logging
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from chaos.faults import Failure, fail
from credentials import Credentials
from local.aws_server import Aws
from outcome import Outcome, ProcessingError
from tests.support import Clock, soon

FIRST, SECOND = b"first-secret-of-16+", b"second-secret-of-16+"
KEY, NEW_KEY = "k" * 32, "n" * 32


class Store:
    """Credentials and the SSM parameters that they read, whose reads are recorded and can be made to fail."""

    def __init__(self, aws: Aws, client: Any, clock: Clock) -> None:
        self.prefix = f"/credentials/{uuid.uuid4()}"
        self.client = client
        self.clock = clock
        self.credentials = Credentials(self.prefix, client, clock)
        self.reads: list[list[str]] = []
        self.read_seconds = 0.0
        self.failure: Failure | None = None
        self.put("webhook-token", FIRST.decode())
        self.put("routing-keys/default", KEY)
        fail(aws, self._read)

    def put(self, name: str, value: str) -> None:
        self.client.put_parameter(Name=f"{self.prefix}/{name}", Value=value, Type="SecureString", Overwrite=True)

    def fail(self) -> None:
        self.failure = Failure.answer(400, "AccessDeniedException", "secret text")

    def tokens(self) -> tuple[bytes, ...]:
        return self.credentials.webhook_secrets(soon(), "default")

    def fresh_tokens(self) -> tuple[bytes, ...]:
        return self.credentials.refresh_webhook_secrets(soon())

    def keys(self, service: str = "default") -> tuple[str, ...]:
        return self.credentials.routing_keys(service, soon())

    def without_key(self, *services: str) -> set[str]:
        return self.credentials.services_without_key(services, soon())

    def _read(self, target: str, request: dict[str, Any]) -> Failure | None:
        if target != "AmazonSSM.GetParameters":
            return None
        self.reads.append([name.removeprefix(f"{self.prefix}/") for name in request["Names"]])
        self.clock.now += self.read_seconds
        return self.failure


@pytest.fixture
def store(aws: Aws, ssm: Any, clock: Clock) -> Store:
    return Store(aws, ssm, clock)


def outcome_of(call: Callable[..., object], *args: Any) -> Outcome:
    with pytest.raises(ProcessingError) as caught:
        call(*args)
    return caught.value.outcome


def test_tokens_and_routing_keys_are_read_in_one_call_when_they_are_needed(store: Store) -> None:
    assert not store.credentials.has_routing_key("default")
    assert store.reads == []
    assert (store.tokens(), store.keys()) == ((FIRST,), (KEY,))
    assert store.credentials.has_routing_key("default")
    assert store.reads == [["webhook-token", "routing-keys/default"]]


@pytest.mark.parametrize(("seconds", "found"), [(299.5, KEY), (300, NEW_KEY), (-100_000, NEW_KEY)])
def test_values_are_kept_for_five_minutes_unless_the_clock_was_set_back(
    store: Store, seconds: float, found: str
) -> None:
    store.keys()
    store.put("routing-keys/default", NEW_KEY)
    store.clock.now += seconds

    assert store.keys() == (found,)


def test_services_without_a_routing_key_are_found_with_one_call_for_ten(store: Store) -> None:
    store.put("routing-keys/empty", " , ")
    services = ["empty", *map(str, range(9))]

    assert store.without_key("default", *services) == set(services)
    assert store.without_key("default", *services) == set(services)
    assert store.keys() == (KEY,)
    assert [len(names) for names in store.reads] == [10, 1]


def test_within_a_second_after_a_slow_read_a_service_is_still_known_to_have_no_key(store: Store) -> None:
    store.read_seconds = 0.3
    store.without_key("checkout")
    store.clock.now += 0.8

    assert (store.without_key("checkout"), len(store.reads)) == ({"checkout"}, 1)


def test_unknown_names_are_remembered_in_a_bounded_number(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("credentials.MAX_MISSING", 20)
    store.tokens()
    for number in range(5):
        store.without_key(*(f"{number}-{each}" for each in range(10)))

    assert len(store.credentials._parameters) <= 2 + 20  # noqa: SLF001 -- memory is not seen from outside
    assert store.tokens() == (FIRST,)
    store.clock.now += 1
    services = {"3-0", *map(str, range(15))}
    assert store.without_key(*sorted(services, key=len)[::-1]) == services


def test_botocore_does_not_log_what_it_receives(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    store.tokens()

    assert FIRST.decode() not in caplog.text
    assert KEY not in caplog.text


def test_a_parameter_may_hold_several_values(store: Store) -> None:
    store.put("webhook-token", f"{FIRST.decode()},\t{SECOND.decode()}")
    store.put("routing-keys/default", f" {KEY},{NEW_KEY} {KEY[:5]}\r\n")

    assert (store.tokens(), store.keys()) == ((FIRST, SECOND), (KEY, NEW_KEY, KEY[:5]))


def test_a_short_token_is_not_accepted_and_logged_as_an_error(store: Store, log: io.StringIO) -> None:
    store.put("webhook-token", "fifteen-letters sixteen-letters!")

    assert store.tokens() == (b"sixteen-letters!",)
    (line,) = map(json.loads, log.getvalue().splitlines())
    assert (line["level"], line["too_short"], line["minimum_characters"]) == ("ERROR", 1, 16)
    assert "fifteen-letters" not in log.getvalue()


def test_a_new_token_is_accepted_a_second_after_the_last_read(store: Store) -> None:
    store.tokens()
    store.put("webhook-token", SECOND.decode())
    store.clock.now += 0.9
    assert store.fresh_tokens() == (FIRST,)
    store.clock.now += 0.1
    assert store.fresh_tokens() == (SECOND,)


def test_an_unknown_token_cannot_be_checked_while_the_tokens_cannot_be_read(store: Store) -> None:
    store.tokens()
    store.fail()
    for seconds in (1.5, 0.5):
        store.clock.now += seconds
        assert outcome_of(store.fresh_tokens).code == "secrets_unavailable"
    assert len(store.reads) == 2


def test_a_slow_read_counts_for_the_request_that_asked(store: Store) -> None:
    store.read_seconds = 3

    assert store.fresh_tokens() == (FIRST,)


def test_deleted_parameters_are_revoked_and_a_stranger_is_not_told_the_name(store: Store) -> None:
    store.tokens()
    store.client.delete_parameters(
        Names=[f"{store.prefix}/{name}" for name in ("webhook-token", "routing-keys/default")]
    )
    store.clock.now += 300

    token, key = outcome_of(store.fresh_tokens), outcome_of(store.keys)

    assert (token.code, key.code) == ("webhook_token_missing", "routing_key_missing")
    assert f"{store.prefix}/webhook-token" in str(token.detail)
    assert "SSM" not in token.message
    assert f"{store.prefix}/routing-keys/default" in key.message


def test_what_was_missing_or_unusable_is_used_a_second_after_it_was_put(store: Store) -> None:
    store.put("webhook-token", "short")
    store.put("routing-keys/default", " , ")
    assert (store.tokens(), outcome_of(store.fresh_tokens).code) == ((), "webhook_token_missing")
    assert {outcome_of(store.keys, service).code for service in ("default", "later")} == {"routing_key_missing"}
    assert not store.credentials.has_routing_key("default")
    for name, value in (("webhook-token", SECOND.decode()), ("routing-keys/default", KEY), ("routing-keys/later", KEY)):
        store.put(name, value)
    store.clock.now += 1

    assert (store.fresh_tokens(), store.keys(), store.keys("later")) == ((SECOND,), (KEY,), (KEY,))


def test_routing_keys_that_pagerduty_refused_are_read_again_at_most_once_a_second(store: Store) -> None:
    found = [store.keys()]
    store.put("routing-keys/default", NEW_KEY)
    for seconds in (0.9, 0.1):
        store.clock.now += seconds
        store.credentials.invalidate_routing_keys("default")
        found.append(store.keys())

    assert found == [(KEY,), (KEY,), (NEW_KEY,)]


def test_after_a_failed_read_the_last_good_values_are_served_and_no_other_is_read_for_ten_seconds(
    store: Store, log: io.StringIO
) -> None:
    store.credentials.webhook_secrets(soon())
    store.keys()
    store.fail()
    store.clock.now += 1000
    for seconds in (0, 9.9):
        store.clock.now += seconds
        assert (store.credentials.webhook_secrets(soon()), store.keys()) == ((FIRST,), (KEY,))
    assert store.reads[2:] == [["webhook-token"]]
    (line,) = map(json.loads, log.getvalue().splitlines())
    assert (line["level"], line["reason"]) == ("WARNING", "AccessDeniedException")
    assert "secret text" not in log.getvalue()

    store.failure = None
    store.put("webhook-token", SECOND.decode())
    store.clock.now += 0.1
    assert store.tokens() == (SECOND,)


def test_the_sender_learns_the_reason_only_after_authentication(store: Store) -> None:
    store.fail()

    stranger, sender = outcome_of(store.credentials.webhook_secrets, soon()), outcome_of(store.keys)

    assert [stranger.code, sender.code] == ["secrets_unavailable"] * 2
    assert stranger.message == "The token cannot be checked at the moment; the event will be tried again"
    assert "webhook-token: could not be read (AccessDeniedException)" in str(stranger.detail)
    assert "routing-keys/default: could not be read (AccessDeniedException)" in sender.message


def test_a_service_that_cannot_be_read_is_not_reported_and_not_read_again_for_the_same_event(store: Store) -> None:
    store.without_key("checkout")
    store.clock.now += 300
    store.fail()
    store.read_seconds = 3

    assert store.without_key("default", "checkout", "search") == set()
    assert outcome_of(store.keys, "checkout").code == "secrets_unavailable"
    assert len(store.reads) == 2


def test_an_ssm_that_hangs_up_is_no_answer(store: Store) -> None:
    store.failure = Failure(lost=True)

    assert outcome_of(store.keys).code == "secrets_unavailable"

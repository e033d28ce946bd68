"""The tokens and routing keys: what is cached, served when SSM fails, and revoked. SSM is moto's server."""

import io
import json
import logging
import socket
import uuid
from collections.abc import Callable
from typing import Any

import boto3
import pytest

import aws as aws_clients
from chaos.faults import Failure, fail
from credentials import Credentials
from local.aws_server import Aws
from outcome import Outcome, ProcessingError
from tests.support import Clock, soon

FIRST, SECOND = "first-secret-of-16+", "second-secret-of-16+"
KEY, NEW_KEY = "k" * 32, "n" * 32


class Ssm:
    """A real server below a prefix that no other test uses; its reads are recorded, and can be made to fail."""

    def __init__(self, aws: Aws, client: Any) -> None:
        self.client = client
        self.prefix = f"/credentials/{uuid.uuid4()}"
        self.reads: list[list[str]] = []
        self.failure: Failure | None = None
        self.on_read: Callable[[], object] = lambda: None
        fail(aws, self._read)

    def put(self, name: str, value: str) -> None:
        self.client.put_parameter(Name=f"{self.prefix}/{name}", Value=value, Type="SecureString", Overwrite=True)

    def delete(self, name: str) -> None:
        self.client.delete_parameter(Name=f"{self.prefix}/{name}")

    def fail(self, code: str = "AccessDeniedException") -> None:
        self.failure = Failure.answer(400, code, "secret text")

    def _read(self, target: str, request: dict[str, Any]) -> Failure | None:
        if target != "AmazonSSM.GetParameters":
            return None
        self.reads.append([name.removeprefix(f"{self.prefix}/") for name in request["Names"]])
        self.on_read()
        return self.failure


@pytest.fixture(name="ssm")
def _ssm(aws: Aws, ssm: Any) -> Ssm:
    found = Ssm(aws, ssm)
    found.put("webhook-token", FIRST)
    found.put("routing-keys/default", KEY)
    return found


@pytest.fixture
def credentials(ssm: Ssm, clock: Clock) -> Credentials:
    return Credentials(ssm.prefix, ssm.client, clock)


def secrets(credentials: Credentials) -> tuple[bytes, ...]:
    return credentials.webhook_secrets(soon())


def refreshed(credentials: Credentials) -> tuple[bytes, ...]:
    return credentials.refresh_webhook_secrets(soon())


def keys(credentials: Credentials, service: str = "default") -> tuple[str, ...]:
    return credentials.routing_keys(service, soon())


def outcome_of(call: Callable[..., object], *args: Any) -> Outcome:
    with pytest.raises(ProcessingError) as caught:
        call(*args)
    return caught.value.outcome


# -- reading and caching ---------------------------------------------------------------------------------------------


def test_tokens_and_routing_keys_are_read_in_one_call_when_they_are_needed(ssm: Ssm, credentials: Credentials) -> None:
    assert ssm.reads == []
    assert credentials.webhook_secrets(soon(), "default") == (FIRST.encode(),)
    assert keys(credentials) == (KEY,)
    assert ssm.reads == [["webhook-token", "routing-keys/default"]]


def test_routing_keys_are_read_without_the_tokens(ssm: Ssm, credentials: Credentials) -> None:
    assert not credentials.has_routing_key("default")
    keys(credentials)
    assert outcome_of(keys, credentials, "made-up").code == "routing_key_missing"

    assert ssm.reads == [["routing-keys/default"], ["routing-keys/made-up"]]
    assert (credentials.has_routing_key("default"), credentials.has_routing_key("made-up")) == (True, False)


def test_values_are_served_for_five_minutes(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    found = [keys(credentials)]
    ssm.put("routing-keys/default", NEW_KEY)
    for seconds in (299.5, 0.5):
        clock.now += seconds
        found.append(keys(credentials))

    assert found == [(KEY,), (KEY,), (NEW_KEY,)]


def test_a_clock_that_was_set_back_does_not_freeze_the_cache(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    keys(credentials)
    ssm.put("routing-keys/default", NEW_KEY)
    clock.now -= 100_000

    assert keys(credentials) == (NEW_KEY,)


def test_services_without_a_routing_key_are_found_with_one_call_for_ten(ssm: Ssm, credentials: Credentials) -> None:
    ssm.put("routing-keys/empty", " , ")
    services = ["default", "empty", *map(str, range(9))]

    assert credentials.services_without_key(services, soon()) == set(services) - {"default"}
    assert credentials.services_without_key(services, soon()) == set(services) - {"default"}
    assert keys(credentials) == (KEY,)
    assert [len(names) for names in ssm.reads] == [10, 1]


def test_unknown_names_are_remembered_in_a_bounded_number(
    ssm: Ssm, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credentials.MAX_MISSING", 20)
    secrets(credentials)
    for number in range(5):
        credentials.services_without_key([f"{number}-{each}" for each in range(10)], soon())

    assert len(credentials._parameters) <= 1 + 20  # noqa: SLF001 -- memory is not seen from outside
    assert secrets(credentials) == (FIRST.encode(),)


def test_botocore_does_not_log_what_it_receives(
    ssm: Ssm, credentials: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    credentials.webhook_secrets(soon(), "default")

    assert FIRST not in caplog.text
    assert KEY not in caplog.text


# -- what the parameters hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [" ", ",", "\n", ", ", "\t\r\n "], ids=repr)
def test_a_parameter_may_hold_several_values(ssm: Ssm, credentials: Credentials, separator: str) -> None:
    ssm.put("webhook-token", f"{FIRST}{separator}{SECOND}")
    ssm.put("routing-keys/default", f" {KEY}{separator}{NEW_KEY}\n")

    assert secrets(credentials) == (FIRST.encode(), SECOND.encode())
    assert keys(credentials) == (KEY, NEW_KEY)


def test_a_short_token_is_not_accepted_and_logged_as_an_error(
    ssm: Ssm, credentials: Credentials, log: io.StringIO
) -> None:
    ssm.put("webhook-token", "fifteen-letters sixteen-letters!")

    assert secrets(credentials) == (b"sixteen-letters!",)
    (line,) = map(json.loads, log.getvalue().splitlines())
    assert (line["level"], line["too_short"], line["minimum_characters"]) == ("ERROR", 1, 16)
    assert "fifteen-letters" not in log.getvalue()


@pytest.mark.parametrize("value", ["fifteen-letters", " ", ","])
def test_requests_are_refused_without_a_usable_token_and_the_sender_is_not_told_its_parameter(
    ssm: Ssm, credentials: Credentials, value: str
) -> None:
    ssm.put("webhook-token", value)

    outcome = outcome_of(secrets, credentials)

    assert outcome.code == "webhook_token_missing"
    assert "SSM" not in outcome.message
    assert f"{ssm.prefix}/webhook-token" in str(outcome.detail)


def test_a_parameter_without_a_routing_key_is_named(ssm: Ssm, credentials: Credentials) -> None:
    ssm.put("routing-keys/checkout", " , ")

    outcome = outcome_of(keys, credentials, "checkout")

    assert outcome.code == "routing_key_missing"
    assert f"{ssm.prefix}/routing-keys/checkout" in outcome.message


# -- rotation and revocation -----------------------------------------------------------------------------------------


def test_a_new_token_is_accepted_a_second_after_the_last_read(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    secrets(credentials)
    ssm.put("webhook-token", SECOND)
    found = []
    for seconds in (0.9, 0.1):
        clock.now += seconds
        found.append(refreshed(credentials))

    assert found == [(FIRST.encode(),), (SECOND.encode(),)]


def test_unknown_tokens_do_not_drive_traffic_to_ssm(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    for _ in range(50):
        refreshed(credentials)
        clock.now += 0.09

    assert len(ssm.reads) == 5


def test_an_unknown_token_cannot_be_checked_while_the_tokens_cannot_be_read(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    secrets(credentials)
    ssm.fail()
    clock.now += 0.9
    assert refreshed(credentials) == (FIRST.encode(),)
    for seconds in (0.6, 0.5):
        clock.now += seconds
        assert outcome_of(refreshed, credentials).code == "secrets_unavailable"

    assert len(ssm.reads) == 2


def test_a_slow_read_counts_for_the_request_that_asked(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    def take_three_seconds() -> None:
        clock.now += 3

    ssm.on_read = take_three_seconds

    assert refreshed(credentials) == (FIRST.encode(),)


def test_deleted_parameters_are_revoked(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    credentials.webhook_secrets(soon(), "default")
    ssm.delete("webhook-token")
    ssm.delete("routing-keys/default")
    clock.now += 300

    assert outcome_of(secrets, credentials).code == "webhook_token_missing"
    assert outcome_of(keys, credentials).code == "routing_key_missing"


def test_a_new_routing_key_works_a_second_after_it_was_missing(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    outcome_of(keys, credentials, "later")
    ssm.put("routing-keys/later", NEW_KEY)
    clock.now += 1

    assert keys(credentials, "later") == (NEW_KEY,)


def test_routing_keys_that_pagerduty_refused_are_read_again_at_most_once_a_second(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    found = [keys(credentials)]
    ssm.put("routing-keys/default", NEW_KEY)
    for seconds in (0.9, 0.1):
        clock.now += seconds
        credentials.invalidate_routing_keys("default")
        found.append(keys(credentials))
    ssm.fail()
    clock.now += 1
    credentials.invalidate_routing_keys("default")
    found.append(keys(credentials))

    assert found == [(KEY,), (KEY,), (NEW_KEY,), (NEW_KEY,)]


# -- when SSM fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["InternalServerError", "InvalidKeyId", "AccessDeniedException"])
def test_the_last_good_values_are_served_and_the_failure_is_logged(
    ssm: Ssm, credentials: Credentials, clock: Clock, log: io.StringIO, code: str
) -> None:
    credentials.webhook_secrets(soon(), "default")
    ssm.fail(code)
    clock.now += 1000

    assert (secrets(credentials), keys(credentials)) == ((FIRST.encode(),), (KEY,))
    (line,) = map(json.loads, log.getvalue().splitlines())
    assert (line["level"], line["reason"]) == ("WARNING", code)
    assert "secret text" not in log.getvalue()


def test_a_failed_read_postpones_the_next_of_all_parameters_with_a_value_by_ten_seconds(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    credentials.webhook_secrets(soon(), "default")
    ssm.reads.clear()
    ssm.fail()
    clock.now += 1000
    for seconds in (0, 9.9):
        clock.now += seconds
        assert (secrets(credentials), keys(credentials)) == ((FIRST.encode(),), (KEY,))
    assert ssm.reads == [["webhook-token"]]

    ssm.failure = None
    ssm.put("webhook-token", SECOND)
    clock.now += 0.1
    assert secrets(credentials) == (SECOND.encode(),)


def test_parameters_that_were_never_read_are_tried_once_a_second(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    ssm.fail()
    for _ in range(20):
        outcome_of(secrets, credentials)
        clock.now += 0.1

    assert len(ssm.reads) == 2


def test_the_reason_is_for_the_log_if_the_sender_is_a_stranger(ssm: Ssm, credentials: Credentials) -> None:
    ssm.fail()

    stranger, sender = outcome_of(secrets, credentials), outcome_of(keys, credentials)

    assert [stranger.code, sender.code] == ["secrets_unavailable"] * 2
    assert stranger.message == "The token cannot be checked at the moment; the event will be tried again"
    assert "webhook-token: could not be read (AccessDeniedException)" in str(stranger.detail)
    assert "routing-keys/default: could not be read (AccessDeniedException)" in sender.message


def test_a_service_is_not_reported_as_without_a_routing_key_while_ssm_fails(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    credentials.services_without_key(["default", "x"], soon())
    clock.now += 300
    ssm.fail()

    assert credentials.services_without_key(["default", "x", "y"], soon()) == set()


def test_a_service_that_could_not_be_read_is_not_read_again_for_the_same_event(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    def take_three_seconds() -> None:
        clock.now += 3

    ssm.fail()
    ssm.on_read = take_three_seconds
    credentials.services_without_key(["checkout"], soon())

    assert outcome_of(keys, credentials, "checkout").code == "secrets_unavailable"
    assert ssm.reads == [["routing-keys/checkout"]]


def test_an_ssm_that_cannot_be_reached_is_no_answer() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        client = boto3.client("ssm", endpoint_url=url, config=aws_clients.CLIENT_CONFIG)

        outcome = outcome_of(Credentials("/p", client).webhook_secrets, soon(0.5))

    assert outcome.code == "secrets_unavailable"

"""The secrets: what is cached, what is served when SSM fails, and what is revoked. SSM is moto's server."""

import io
import json
import logging
import socket
import time
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


class Ssm:
    """A real server below a prefix that no other test uses; it counts its reads, and fails when told to."""

    def __init__(self, aws: Aws, client: Any) -> None:
        self.client = client
        self.prefix = f"/credentials/{uuid.uuid4()}"
        self.reads: list[list[str]] = []
        self.failure: Failure | None = None
        fail(aws, self._read)

    def put(self, name: str, value: str) -> None:
        self.client.put_parameter(Name=f"{self.prefix}/{name}", Value=value, Type="SecureString", Overwrite=True)

    def delete(self, name: str) -> None:
        self.client.delete_parameter(Name=f"{self.prefix}/{name}")

    def fail(self, code: str) -> None:
        self.failure = Failure.answer(500 if code == "InternalServerError" else 400, code, "secret text")

    def _read(self, target: str, request: dict[str, Any]) -> Failure | None:
        if target != "AmazonSSM.GetParameters":
            return None
        self.reads.append([name.removeprefix(f"{self.prefix}/") for name in request["Names"]])
        return self.failure


@pytest.fixture(name="ssm")
def _ssm(aws: Aws, ssm: Any) -> Ssm:
    found = Ssm(aws, ssm)
    found.put("webhook-token", FIRST)
    found.put("routing-keys/default", "k" * 32)
    return found


@pytest.fixture
def credentials(ssm: Ssm, clock: Clock) -> Credentials:
    return Credentials(ssm.prefix, ssm.client, clock)


def secrets(credentials: Credentials) -> tuple[bytes, ...]:
    return credentials.webhook_secrets(soon())


def keys(credentials: Credentials, service: str = "default") -> tuple[str, ...]:
    return credentials.routing_keys(service, soon())


def outcome_of(call: Callable[[], object]) -> Outcome:
    with pytest.raises(ProcessingError) as caught:
        call()
    return caught.value.outcome


def test_nothing_is_read_before_it_is_needed(ssm: Ssm, credentials: Credentials) -> None:
    assert ssm.reads == []


def test_the_secret_and_the_routing_keys_come_in_one_call(ssm: Ssm, credentials: Credentials) -> None:
    assert credentials.webhook_secrets(soon(), "default") == (FIRST.encode(),)
    assert keys(credentials) == ("k" * 32,)
    assert ssm.reads == [["webhook-token", "routing-keys/default"]]


def test_whoever_asks_for_routing_keys_alone_asks_for_no_other_name(ssm: Ssm, credentials: Credentials) -> None:
    keys(credentials)

    assert ssm.reads == [["routing-keys/default"]]


def test_values_are_served_for_five_minutes(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    keys(credentials)
    ssm.put("routing-keys/default", "n" * 32)

    clock.now += 299.5
    assert keys(credentials) == ("k" * 32,)
    clock.now += 0.5
    assert keys(credentials) == ("n" * 32,)


# -- what the parameters hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [" ", ",", "\n", ", ", "\t\r\n "])
def test_several_secrets_may_be_valid_at_once(ssm: Ssm, credentials: Credentials, separator: str) -> None:
    ssm.put("webhook-token", f"previous-secret-16{separator}current-secret--16")

    assert secrets(credentials) == (b"previous-secret-16", b"current-secret--16")


@pytest.mark.parametrize("separator", [" ", ",", "\n", ", "])
def test_a_service_may_have_several_routing_keys(ssm: Ssm, credentials: Credentials, separator: str) -> None:
    ssm.put("routing-keys/default", f" {'a' * 32}{separator}{'b' * 32}\n")

    assert keys(credentials) == ("a" * 32, "b" * 32)


def test_a_short_secret_is_not_accepted_and_logged_as_an_error(
    ssm: Ssm, credentials: Credentials, log: io.StringIO
) -> None:
    ssm.put("webhook-token", "fifteen-letters sixteen-letters!")

    assert secrets(credentials) == (b"sixteen-letters!",)
    (line,) = map(json.loads, log.getvalue().splitlines())
    assert (line["level"], line["too_short"], line["minimum_characters"]) == ("ERROR", 1, 16)
    assert "fifteen-letters" not in log.getvalue()


def test_secrets_that_are_long_enough_are_not_logged(ssm: Ssm, credentials: Credentials, log: io.StringIO) -> None:
    ssm.put("webhook-token", "sixteen-letters! another-sixteen!")

    assert secrets(credentials) == (b"sixteen-letters!", b"another-sixteen!")
    assert log.getvalue() == ""


@pytest.mark.parametrize("value", ["short", " ", ",", "fifteen-letters"])
def test_without_a_usable_secret_nobody_is_let_in_nor_told_where_it_would_be(
    ssm: Ssm, credentials: Credentials, value: str
) -> None:
    ssm.put("webhook-token", value)

    outcome = outcome_of(lambda: secrets(credentials))

    assert (outcome.http_status, outcome.code) == (503, "webhook_token_missing")
    assert "SSM" not in outcome.message
    assert f"{ssm.prefix}/webhook-token" in str(outcome.detail)


@pytest.mark.parametrize("value", [None, " ", ",", " , "])
def test_a_missing_routing_key_is_our_fault_and_names_the_parameter(
    ssm: Ssm, credentials: Credentials, value: str | None
) -> None:
    if value:
        ssm.put("routing-keys/checkout", value)

    outcome = outcome_of(lambda: keys(credentials, "checkout"))

    assert (outcome.http_status, outcome.code) == (503, "routing_key_missing")
    assert f"{ssm.prefix}/routing-keys/checkout" in outcome.message


def test_services_without_routing_keys_are_told_in_one_call_for_ten(ssm: Ssm, credentials: Credentials) -> None:
    ssm.put("routing-keys/empty", " , ")
    services = ["default", "empty", *map(str, range(9))]

    assert credentials.services_without_key(services, soon()) == set(services) - {"default"}
    assert [len(names) for names in ssm.reads] == [10, 1]


def test_services_that_were_just_told_of_are_not_asked_for_again(ssm: Ssm, credentials: Credentials) -> None:
    credentials.services_without_key(["default", "x"], soon())

    assert credentials.services_without_key(["default", "x"], soon()) == {"x"}
    assert credentials.routing_keys("default", soon()) == ("k" * 32,)
    assert len(ssm.reads) == 1


def test_a_service_that_ssm_cannot_tell_of_may_have_a_routing_key(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    credentials.services_without_key(["default", "x"], soon())
    clock.now += 301
    ssm.fail("InternalServerError")

    assert credentials.services_without_key(["default", "x", "y"], soon()) == set()


def test_a_service_is_known_once_it_has_a_routing_key(ssm: Ssm, credentials: Credentials) -> None:
    before = credentials.has_routing_key("default")
    keys(credentials)
    outcome_of(lambda: keys(credentials, "made-up"))

    assert (before, credentials.has_routing_key("default"), credentials.has_routing_key("made-up")) == (
        False,
        True,
        False,
    )


# -- a secret that is unknown may be new -----------------------------------------------------------------------------


def test_a_new_secret_is_seen_at_once(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    secrets(credentials)
    ssm.put("webhook-token", SECOND)
    clock.now += 1

    assert credentials.refresh_webhook_secrets(soon()) == (SECOND.encode(),)


def test_unknown_secrets_do_not_drive_traffic_to_ssm(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    for _ in range(100):
        credentials.refresh_webhook_secrets(soon())
        clock.now += 0.09

    assert len(ssm.reads) == 9


def test_while_the_secrets_cannot_be_read_nobody_can_tell_whether_one_is_new(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    secrets(credentials)
    ssm.fail("ThrottlingException")
    clock.now += 1.5
    outcomes = [outcome_of(lambda: credentials.refresh_webhook_secrets(soon())).code]
    clock.now += 0.5
    outcomes.append(outcome_of(lambda: credentials.refresh_webhook_secrets(soon())).code)

    assert outcomes == ["secrets_unavailable", "secrets_unavailable"]
    assert len(ssm.reads) == 2


def test_within_a_second_after_a_good_read_an_unknown_secret_is_known_to_be_wrong(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    secrets(credentials)
    ssm.fail("ThrottlingException")
    clock.now += 0.9

    assert credentials.refresh_webhook_secrets(soon()) == (FIRST.encode(),)


def test_a_read_that_takes_long_still_counts_for_the_request_that_asked(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    def slow(_: object) -> None:
        clock.now += 3

    ssm.client.meta.events.register("after-call.ssm.GetParameters", lambda **_: slow(None), unique_id="slow")
    try:
        assert credentials.refresh_webhook_secrets(soon()) == (FIRST.encode(),)
    finally:
        ssm.client.meta.events.unregister("after-call.ssm.GetParameters", unique_id="slow")


# -- when SSM fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure", ["InternalServerError", "InvalidKeyId", "ThrottlingException", "AccessDeniedException"]
)
def test_the_last_good_value_is_served_when_ssm_fails(
    ssm: Ssm, credentials: Credentials, clock: Clock, log: io.StringIO, failure: str
) -> None:
    credentials.webhook_secrets(soon(), "default")
    ssm.fail(failure)
    clock.now += 1000

    assert secrets(credentials) == (FIRST.encode(),)
    assert keys(credentials) == ("k" * 32,)
    assert '"level":"WARNING"' in log.getvalue()
    assert failure in log.getvalue()
    assert "secret text" not in log.getvalue()


def test_a_failing_ssm_is_asked_at_most_every_ten_seconds(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    secrets(credentials)
    ssm.fail("ThrottlingException")
    clock.now += 1000
    for _ in range(9):
        secrets(credentials)
        clock.now += 1

    assert len(ssm.reads) == 2


def test_one_failed_read_postpones_the_next_for_all_parameters_that_have_a_value(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    credentials.webhook_secrets(soon(), "default")
    ssm.reads.clear()
    ssm.fail("ThrottlingException")
    clock.now += 1000

    assert (secrets(credentials), keys(credentials)) == ((FIRST.encode(),), ("k" * 32,))
    assert ssm.reads == [["webhook-token"]]


def test_a_service_that_could_not_be_read_is_not_read_again_for_the_same_event(
    ssm: Ssm, credentials: Credentials, clock: Clock, aws: Aws
) -> None:
    def hang(target: str, _: object) -> Failure:
        clock.now += 3  # as long as the read takes
        ssm.reads.append([target])
        return Failure.answer(500, "InternalServerError")

    fail(aws, hang)
    credentials.services_without_key(["checkout"], soon())
    asked = len(ssm.reads)

    assert outcome_of(lambda: keys(credentials, "checkout")).code == "secrets_unavailable"
    assert len(ssm.reads) == asked


def test_names_that_ssm_does_not_know_are_remembered_in_a_bounded_number(
    ssm: Ssm, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credentials.MAX_MISSING", 20)
    secrets(credentials)
    for number in range(10):
        credentials.services_without_key([f"{number}-{each}" for each in range(10)], soon())

    assert len(credentials._parameters) <= 1 + 20  # noqa: SLF001 -- memory is not seen from outside
    assert secrets(credentials) == (FIRST.encode(),)


def test_a_failing_ssm_that_never_answered_is_asked_at_most_once_a_second(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    ssm.fail("ThrottlingException")
    for _ in range(20):
        outcome_of(lambda: secrets(credentials))
        clock.now += 0.1

    assert len(ssm.reads) == 2


def test_an_ssm_that_is_back_is_noticed(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    secrets(credentials)
    ssm.fail("ThrottlingException")
    clock.now += 1000
    secrets(credentials)
    ssm.failure = None
    ssm.put("webhook-token", SECOND)
    clock.now += 10

    assert secrets(credentials) == (SECOND.encode(),)


@pytest.mark.parametrize("failure", ["InternalServerError", "InvalidKeyId", "AccessDeniedException"])
def test_a_stranger_hears_nothing_of_a_failing_ssm_and_the_log_all_of_it(
    ssm: Ssm, credentials: Credentials, failure: str
) -> None:
    ssm.fail(failure)

    outcome = outcome_of(lambda: secrets(credentials))

    assert (outcome.http_status, outcome.code) == (503, "secrets_unavailable")
    assert outcome.message == "The token cannot be checked at the moment; the event will be tried again"
    assert f"could not be read ({failure})" in str(outcome.detail)


def test_a_sender_hears_which_routing_key_could_not_be_read(ssm: Ssm, credentials: Credentials) -> None:
    ssm.fail("AccessDeniedException")

    outcome = outcome_of(lambda: keys(credentials))

    assert (outcome.http_status, outcome.code) == (503, "secrets_unavailable")
    assert "routing-keys/default: could not be read (AccessDeniedException)" in outcome.message


def test_an_ssm_that_cannot_be_reached_is_our_fault(clock: Clock) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        client = boto3.client("ssm", endpoint_url=url, config=aws_clients.CLIENT_CONFIG)
        outcome = outcome_of(lambda: Credentials("/p", client, clock).webhook_secrets(time.monotonic() + 0.5))

    assert (outcome.http_status, outcome.code) == (503, "secrets_unavailable")


def test_an_ssm_that_throttles_for_a_moment_is_only_late(ssm: Ssm, aws: Aws) -> None:
    answers = iter([Failure.answer(400, "ThrottlingException")] * 2)
    fail(aws, lambda *_: next(answers, None))
    client = aws.client("ssm", aws_clients.CLIENT_CONFIG)

    assert Credentials(ssm.prefix, client).routing_keys("default", time.monotonic() + 8) == ("k" * 32,)


# -- what is revoked -------------------------------------------------------------------------------------------------


def test_a_deleted_secret_is_revoked(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    secrets(credentials)
    ssm.delete("webhook-token")
    clock.now += 301

    assert outcome_of(lambda: secrets(credentials)).code == "webhook_token_missing"


def test_a_deleted_routing_key_is_not_served_on(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    keys(credentials)
    ssm.delete("routing-keys/default")
    clock.now += 301

    assert outcome_of(lambda: keys(credentials)).code == "routing_key_missing"


def test_a_routing_key_that_is_put_there_works_a_second_later(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    outcome_of(lambda: keys(credentials, "later"))
    ssm.put("routing-keys/later", "l" * 32)
    clock.now += 1

    assert keys(credentials, "later") == ("l" * 32,)


def test_routing_keys_of_which_pagerduty_refused_one_are_read_again_at_most_once_a_second(
    ssm: Ssm, credentials: Credentials, clock: Clock
) -> None:
    found = [keys(credentials)]
    ssm.put("routing-keys/default", "n" * 32)
    for seconds in (0.9, 0.1):
        clock.now += seconds
        credentials.invalidate_routing_keys("default")
        found.append(keys(credentials))

    assert found == [("k" * 32,), ("k" * 32,), ("n" * 32,)]


def test_a_refused_routing_key_is_served_on_while_ssm_fails(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    keys(credentials)
    ssm.fail("InternalServerError")
    clock.now += 1
    credentials.invalidate_routing_keys("default")

    assert keys(credentials) == ("k" * 32,)


def test_a_clock_that_was_set_back_does_not_freeze_the_cache(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    keys(credentials)
    ssm.put("routing-keys/default", "n" * 32)
    clock.now -= 100_000

    assert keys(credentials) == ("n" * 32,)


def test_botocore_does_not_log_what_it_receives(
    ssm: Ssm, credentials: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    credentials.webhook_secrets(soon(), "default")

    assert FIRST not in caplog.text
    assert "k" * 32 not in caplog.text

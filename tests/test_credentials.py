"""The secrets: what is cached, what is served when SSM fails, and what is revoked. SSM is moto's server."""

import contextlib
import io
import logging
import socket
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

import aws
from credentials import Credentials
from errors import Deferred
from support import Clock

PREFIX = "/credentials"
TOKEN = f"{PREFIX}/webhook-token"
DEFAULT_KEY = f"{PREFIX}/routing-keys/default"


class Ssm:
    """A real client, whose calls are counted, and which can be told to fail as SSM does."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls: list[list[str]] = []
        self.failure: str | None = None
        client.meta.events.register("provide-client-params.ssm.GetParameters", self._count, unique_id="count")
        client.meta.events.register_first("after-call.ssm.GetParameters", self._fail, unique_id="fail")

    def put(self, name: str, value: str) -> None:
        self.client.put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)

    def delete(self, name: str) -> None:
        self.client.delete_parameter(Name=name)

    def _count(self, params: dict[str, Any], **_: Any) -> None:
        self.calls.append(params["Names"])

    def _fail(self, http_response: Any, parsed: dict[str, Any], **_: Any) -> None:
        if self.failure:
            http_response.status_code = 500 if self.failure == "InternalServerError" else 400
            parsed.clear()
            parsed["Error"] = {"Code": self.failure, "Message": "secret text"}


@pytest.fixture
def ssm(aws_url: str) -> Iterator[Ssm]:
    ssm = Ssm(boto3.client("ssm", endpoint_url=aws_url))
    ssm.put(TOKEN, "first-secret-of-16+")
    ssm.put(DEFAULT_KEY, "k" * 32)
    yield ssm
    for name in (TOKEN, DEFAULT_KEY):
        with contextlib.suppress(ClientError):  # The test deleted it.
            ssm.delete(name)


@pytest.fixture
def credentials(ssm: Ssm, clock: Clock) -> Credentials:
    return Credentials(PREFIX, ssm.client, clock)


def test_nothing_is_read_before_it_is_needed(ssm: Ssm, credentials: Credentials) -> None:
    assert ssm.calls == []


def test_the_secret_and_the_routing_key_come_in_one_call(ssm: Ssm, credentials: Credentials) -> None:
    assert credentials.webhook_tokens("default") == (b"first-secret-of-16+",)
    assert credentials.routing_key("default") == "k" * 32
    assert ssm.calls == [[TOKEN, DEFAULT_KEY]]


def test_values_are_served_for_five_minutes(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    credentials.routing_key("default")
    ssm.put(DEFAULT_KEY, "n" * 32)

    clock.now += 299
    assert credentials.routing_key("default") == "k" * 32
    clock.now += 2
    assert credentials.routing_key("default") == "n" * 32


@pytest.mark.parametrize("separator", [" ", ",", "\n", ", ", "\t\r\n "])
def test_several_secrets_may_be_valid_at_once(ssm: Ssm, credentials: Credentials, separator: str) -> None:
    ssm.put(TOKEN, f"previous-secret-16{separator}current-secret--16")

    assert credentials.webhook_tokens() == (b"previous-secret-16", b"current-secret--16")


def test_a_short_secret_is_not_accepted_and_logged_as_an_error(
    ssm: Ssm, credentials: Credentials, log: io.StringIO
) -> None:
    ssm.put(TOKEN, "fifteen-letters long-enough-secret")

    assert credentials.webhook_tokens() == (b"long-enough-secret",)
    assert '"level":"ERROR"' in log.getvalue()
    assert "fifteen-letters" not in log.getvalue()


@pytest.mark.parametrize("value", ["short", " ", ",", "fifteen-letters"])
def test_without_a_usable_secret_nobody_is_let_in(ssm: Ssm, credentials: Credentials, value: str) -> None:
    ssm.put(TOKEN, value)

    with pytest.raises(Deferred) as caught:
        credentials.webhook_tokens()
    assert (caught.value.status, caught.value.code) == (503, "webhook_token_missing")


def test_a_missing_routing_key_is_our_fault_and_names_the_parameter(credentials: Credentials) -> None:
    with pytest.raises(Deferred) as caught:
        credentials.routing_key("checkout")

    assert (caught.value.status, caught.value.code) == (503, "routing_key_missing")
    assert f"{PREFIX}/routing-keys/checkout" in caught.value.message


def test_white_space_around_a_routing_key_is_not_part_of_it(ssm: Ssm, credentials: Credentials) -> None:
    ssm.put(DEFAULT_KEY, f" {'w' * 32}\n")

    assert credentials.routing_key("default") == "w" * 32


def test_a_new_secret_works_after_ten_seconds(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    credentials.webhook_tokens()
    ssm.put(TOKEN, "second-secret-of-16+")

    clock.now += 9
    assert credentials.webhook_tokens(max_age=10) == (b"first-secret-of-16+",)
    clock.now += 2
    assert credentials.webhook_tokens(max_age=10) == (b"second-secret-of-16+",)


def test_unknown_secrets_do_not_drive_traffic_to_ssm(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    for _ in range(100):
        clock.now += 0.1
        credentials.webhook_tokens(max_age=10)

    assert len(ssm.calls) == 1


@pytest.mark.parametrize(
    "failure", ["InternalServerError", "InvalidKeyId", "ThrottlingException", "AccessDeniedException"]
)
def test_the_last_good_value_is_served_when_ssm_fails(
    ssm: Ssm, credentials: Credentials, clock: Clock, log: io.StringIO, failure: str
) -> None:
    credentials.webhook_tokens("default")
    ssm.failure = failure
    clock.now += 1000

    assert credentials.webhook_tokens("default") == (b"first-secret-of-16+",)
    assert credentials.routing_key("default") == "k" * 32
    assert '"level":"WARNING"' in log.getvalue()
    assert failure in log.getvalue()
    assert "secret text" not in log.getvalue()


def test_a_failing_ssm_is_asked_at_most_every_ten_seconds(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    credentials.webhook_tokens()
    ssm.failure = "ThrottlingException"
    clock.now += 1000
    for _ in range(9):
        credentials.webhook_tokens()
        clock.now += 1

    assert len(ssm.calls) == 2


def test_an_ssm_that_is_back_is_noticed(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    credentials.webhook_tokens()
    ssm.failure = "ThrottlingException"
    clock.now += 1000
    credentials.webhook_tokens()
    ssm.failure = None
    ssm.put(TOKEN, "second-secret-of-16+")
    clock.now += 10

    assert credentials.webhook_tokens() == (b"second-secret-of-16+",)


@pytest.mark.parametrize("failure", ["InternalServerError", "InvalidKeyId", "AccessDeniedException"])
def test_a_failing_ssm_that_never_answered_is_our_fault(ssm: Ssm, credentials: Credentials, failure: str) -> None:
    ssm.failure = failure

    with pytest.raises(Deferred) as caught:
        credentials.webhook_tokens()
    assert (caught.value.status, caught.value.code) == (503, "secrets_unavailable")
    assert failure in caught.value.message


def test_an_ssm_that_cannot_be_reached_is_our_fault(clock: Clock) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        client = boto3.client("ssm", endpoint_url=f"http://127.0.0.1:{held.getsockname()[1]}", config=aws.CLIENT_CONFIG)
        with pytest.raises(Deferred) as caught:
            Credentials(PREFIX, client, clock).webhook_tokens()

    assert (caught.value.status, caught.value.code) == (503, "secrets_unavailable")


def test_a_deleted_secret_is_revoked(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    credentials.webhook_tokens()
    ssm.delete(TOKEN)
    clock.now += 301

    with pytest.raises(Deferred) as caught:
        credentials.webhook_tokens()
    assert caught.value.code == "webhook_token_missing"


def test_a_deleted_routing_key_is_not_served_on(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    credentials.webhook_tokens("default")
    ssm.delete(DEFAULT_KEY)
    clock.now += 301

    with pytest.raises(Deferred) as caught:
        credentials.routing_key("default")
    assert caught.value.code == "routing_key_missing"


def test_a_routing_key_that_pagerduty_refused_is_read_anew(ssm: Ssm, credentials: Credentials) -> None:
    credentials.routing_key("default")
    ssm.put(DEFAULT_KEY, "n" * 32)

    credentials.distrust_routing_key("default")

    assert credentials.routing_key("default") == "n" * 32


def test_a_refused_routing_key_is_served_on_while_ssm_fails(ssm: Ssm, credentials: Credentials) -> None:
    credentials.routing_key("default")
    ssm.failure = "InternalServerError"

    credentials.distrust_routing_key("default")

    assert credentials.routing_key("default") == "k" * 32


def test_names_that_are_not_there_do_not_fill_the_memory(credentials: Credentials, clock: Clock) -> None:
    for n in range(50):
        clock.now += 11
        credentials.webhook_tokens(f"guessed-{n}", max_age=10)

    assert len(credentials._entries) <= 2  # noqa: SLF001 -- what grows can only be seen inside


def test_a_clock_that_was_set_back_does_not_freeze_the_cache(ssm: Ssm, credentials: Credentials, clock: Clock) -> None:
    credentials.routing_key("default")
    ssm.put(DEFAULT_KEY, "n" * 32)
    clock.now -= 100_000

    assert credentials.routing_key("default") == "n" * 32


def test_botocore_does_not_log_what_it_receives(
    ssm: Ssm, credentials: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    credentials.webhook_tokens("default")

    assert "first-secret-of-16+" not in caplog.text
    assert "k" * 32 not in caplog.text

"""The function as a whole: requests as API Gateway makes them in, answers out; SSM and PagerDuty are real servers."""

import base64
import dataclasses
import gzip
import io
import json
import threading
import uuid
from collections.abc import Callable
from typing import Any

import boto3
import pytest

import app
import aws
import sqs
import webhook
from local.sandbox import Fault, Received
from mapping import Rules, map_event
from support import ROUTING_KEY, TOKEN, Clock, Endpoint, LambdaContext, track

SECOND_KEY = "s" * 32


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# -- authenticate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer  {TOKEN} "},
        {"authorization": basic(TOKEN, "")},
        {"authorization": basic("rudder", TOKEN)},
        {"x-api-key": TOKEN},
        {"X-Api-Key": TOKEN, "authorization": "Bearer something-else"},
    ],
)
def test_a_caller_who_knows_the_secret_is_let_in(endpoint: Endpoint, headers: dict[str, str]) -> None:
    endpoint.headers = headers

    assert endpoint.post(track()).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": TOKEN},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Bearer {TOKEN},Bearer {TOKEN}"},
        {"authorization": "Bearer t\u00f6ken-\u2603-of-the-tests"},
        {"authorization": "Bearer \ud800-secret-of-the-tests"},
        {"authorization": "Basic"},
        {"authorization": "Basic !!!"},
        {"authorization": "Basic \u2603"},
        {"authorization": basic("user", "password")},
        {"authorization": f"Digest {TOKEN}"},
        {"x-api-key": ""},
        {"x-api-key": "nope"},
    ],
)
def test_anybody_else_gets_the_same_401(endpoint: Endpoint, headers: dict[str, str]) -> None:
    endpoint.headers = headers

    answer = endpoint.post(track())

    assert (answer.status, answer.content["code"]) == (401, "unauthorized")
    assert endpoint.sandbox.received == []


def test_nothing_of_a_strangers_body_is_read(endpoint: Endpoint) -> None:
    endpoint.headers = {}

    assert endpoint.post("{").content["code"] == "unauthorized"
    assert endpoint.post(track(), path="/events/not a name").content["code"] == "unauthorized"


def test_a_new_secret_works_at_once(make_endpoint: Callable[..., Endpoint], clock: Clock) -> None:
    endpoint = make_endpoint(clock=clock)
    endpoint.post(track())
    endpoint.put("webhook-token", f"{TOKEN} the-next-secret-of-all")
    endpoint.headers = {"x-api-key": "the-next-secret-of-all"}
    clock.now += 11

    assert endpoint.post(track()).status == 200


def test_without_any_secret_nobody_is_let_in_and_nothing_is_lost(endpoint: Endpoint) -> None:
    endpoint.delete("webhook-token")

    answer = endpoint.post(track())

    assert (answer.status, answer.content["status"], answer.content["code"]) == (
        503,
        "deferred",
        "webhook_token_missing",
    )


# -- one event -------------------------------------------------------------------------------------------------------


def test_a_track_call_opens_an_incident(endpoint: Endpoint) -> None:
    answer = endpoint.post(track())

    assert answer.content == {
        "status": "delivered",
        "code": "delivered",
        "message": "PagerDuty took the alert event (trigger)",
        "dedup_key": "disk-full",
        "warnings": [],
    }
    incident = endpoint.sandbox.incident("disk-full")
    assert incident is not None
    assert (incident.status, incident.routing_key) == ("triggered", ROUTING_KEY)


def test_a_named_service_has_its_own_routing_key(make_endpoint: Callable[..., Endpoint]) -> None:
    endpoint = make_endpoint(default=ROUTING_KEY, checkout=SECOND_KEY)

    endpoint.post(track(), path="/events/checkout")

    assert [received.event["routing_key"] for received in endpoint.sandbox.received] == [SECOND_KEY]


def test_a_service_that_nobody_set_up_is_our_fault(endpoint: Endpoint) -> None:
    answer = endpoint.post(track(), path="/events/unknown")

    assert (answer.status, answer.content["code"]) == (503, "routing_key_missing")


@pytest.mark.parametrize("name", ["a b", "", "a/b", "x" * 65, "käse", "a:1", "a\n"])
def test_a_name_that_no_service_can_have_is_not_found(endpoint: Endpoint, name: str) -> None:
    answer = endpoint.post(track(), path="/events/x", pathParameters={"service": name})

    assert (answer.status, answer.content["code"]) == (404, "no_such_service")


def test_a_service_set_up_later_works_without_a_restart(endpoint: Endpoint) -> None:
    endpoint.put("routing-keys/later", SECOND_KEY)

    assert endpoint.post(track(), path="/events/later").status == 200


def test_an_event_of_pagerdutys_refusal_is_final_and_says_why(endpoint: Endpoint) -> None:
    endpoint.sandbox.misbehave = lambda _: Fault.answer(400, {"message": "m", "errors": ["summary is odd"]})

    answer = endpoint.post(track())

    assert (answer.status, answer.content["status"], answer.content["code"]) == (400, "rejected", "pagerduty_rejected")
    assert "summary is odd" in answer.content["message"]


def test_a_refused_routing_key_is_read_anew_for_the_next_event(endpoint: Endpoint) -> None:
    endpoint.sandbox.known_keys = {SECOND_KEY}

    first = endpoint.post(track())
    endpoint.put("routing-keys/default", SECOND_KEY)
    second = endpoint.post(track())

    assert (first.status, first.content["code"]) == (503, "routing_key_refused")
    assert second.status == 200


def test_the_dedup_key_that_pagerduty_made_is_in_the_answer(endpoint: Endpoint) -> None:
    event = track(messageId=None, properties={"dedupKey": None})

    answer = endpoint.post(event)

    assert answer.content["dedup_key"] == endpoint.sandbox.incidents[0].dedup_key


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault.answer(429), 429),
        (Fault.answer(500), 503),
        (Fault.answer(408), 503),
        (Fault.answer(403), 503),
        (Fault.answer(302), 503),
        (Fault.reset_before(), 503),
        (Fault.hang(), 504),
    ],
)
def test_what_pagerduty_cannot_take_now_is_sent_again(endpoint: Endpoint, fault: Fault, status: int) -> None:
    endpoint.sandbox.misbehave = lambda _: fault

    answer = endpoint.post(track(), milliseconds=900)

    assert (answer.status, answer.content["status"]) == (status, "deferred")


def test_the_answer_comes_before_the_functions_own_time_limit(endpoint: Endpoint) -> None:
    answer = endpoint.post(track(), milliseconds=400)

    assert (answer.status, answer.content["code"]) == (504, "out_of_time")


def test_warnings_are_in_the_answer(endpoint: Endpoint) -> None:
    answer = endpoint.post(track(properties={"severity": "catastrophic"}))

    assert answer.content["warnings"] == [
        'properties.severity: expected critical, error, warning or info, got "catastrophic"; sent as critical'
    ]


def test_default_source_stands_in_for_a_missing_one(make_endpoint: Callable[..., Endpoint]) -> None:
    endpoint = make_endpoint(rules=Rules(default_source="shop"))

    endpoint.post(track(properties={"source": None}))

    assert endpoint.sandbox.received[0].event["payload"]["source"] == "shop"


# -- bodies ----------------------------------------------------------------------------------------------------------


def test_a_gzipped_body_labelled_as_a_form_is_read(endpoint: Endpoint) -> None:
    body = base64.b64encode(gzip.compress(json.dumps({"batch": [track()]}).encode())).decode()
    endpoint.headers |= {"content-encoding": "gzip", "content-type": "application/x-www-form-urlencoded"}

    answer = endpoint.post(body, path="/v1/batch", isBase64Encoded=True)

    assert answer.status == 200


def test_on_v1_track_the_path_is_the_type(endpoint: Endpoint) -> None:
    event = track()
    del event["type"]

    assert endpoint.post(event, path="/v1/track").status == 200
    assert endpoint.post(event, path="/events").content["code"] == "type_missing"


@pytest.mark.parametrize("body", ["", " ", "{", "null", "7", '"x"', "[]", '{"batch": []}', '{"batch": 7}', "NaN"])
def test_a_body_without_events_is_final(endpoint: Endpoint, body: str) -> None:
    assert endpoint.post(body).status == 400


def test_a_body_over_six_megabytes_is_too_large(endpoint: Endpoint) -> None:
    assert endpoint.post(track(padding="x" * 6_300_000)).status == 413


def test_no_body_at_all_is_an_empty_one(endpoint: Endpoint) -> None:
    assert endpoint.post("", body=None).content["code"] == "body_empty"


# -- preview ---------------------------------------------------------------------------------------------------------


def preview(endpoint: Endpoint, event: object, value: str = "true") -> Any:
    return endpoint.post(event, queryStringParameters={"preview": value})


def test_a_preview_shows_the_event_and_sends_nothing(endpoint: Endpoint) -> None:
    answer = preview(endpoint, track())

    assert answer.content == {
        "status": "preview",
        "code": "preview",
        "message": "This alert event (trigger) would be sent; nothing was",
        "dedup_key": "disk-full",
        "warnings": [],
        "event": {
            "event_action": "trigger",
            "dedup_key": "disk-full",
            "payload": {"summary": "Disk is full", "severity": "critical", "source": "db-1"},
        },
    }
    assert endpoint.sandbox.received == []


def test_a_preview_needs_no_routing_key(endpoint: Endpoint) -> None:
    endpoint.delete("routing-keys/default")

    assert preview(endpoint, track()).status == 200


def test_a_preview_tells_of_a_refusal(endpoint: Endpoint) -> None:
    answer = preview(endpoint, track(properties={"action": "resolved"}))

    assert (answer.status, answer.content["code"]) == (400, "action_unknown")


def test_a_preview_of_many_events_has_a_result_for_each(endpoint: Endpoint) -> None:
    answer = preview(endpoint, [track(), track(type="page")])

    assert [result["status"] for result in answer.content["results"]] == ["preview", "ignored"]


@pytest.mark.parametrize("value", ["yes", "1", "", "true,true", "ture"])
def test_a_preview_that_is_neither_true_nor_false_pages_nobody(endpoint: Endpoint, value: str) -> None:
    answer = preview(endpoint, track(), value)

    assert (answer.status, answer.content["code"]) == (400, "preview_unclear")
    assert endpoint.sandbox.received == []


def test_preview_false_sends(endpoint: Endpoint) -> None:
    preview(endpoint, track(), "false")

    assert len(endpoint.sandbox.received) == 1


# -- many events -----------------------------------------------------------------------------------------------------


def numbered(n: int, **properties: Any) -> dict[str, Any]:
    return track(messageId=f"m-{n}", properties={"dedupKey": f"incident-{n}", **properties})


def failing(*dedup_keys: str, fault: Fault) -> Callable[[Received], Fault | None]:
    return lambda call: fault if call.event.get("dedup_key") in dedup_keys else None


def test_an_array_has_a_result_for_each_event_in_order(endpoint: Endpoint) -> None:
    answer = endpoint.post([numbered(1), 7, track(type="identify"), numbered(2, action="close"), numbered(3)])

    assert answer.status == 200
    assert answer.content["message"] == "5 events: 2 delivered, 2 rejected, 1 ignored"
    assert [result["code"] for result in answer.content["results"]] == [
        "delivered",
        "event_not_an_object",
        "not_a_track_call",
        "action_unknown",
        "delivered",
    ]


def test_an_array_of_one_is_answered_as_many(endpoint: Endpoint) -> None:
    assert [result["status"] for result in endpoint.post([track()]).content["results"]] == ["delivered"]


def test_many_events_that_are_all_refused_are_final(endpoint: Endpoint) -> None:
    answer = endpoint.post([7, numbered(1, action="close")])

    assert (answer.status, answer.content["status"]) == (400, "rejected")


def test_one_deferred_event_makes_the_sender_send_all_again(endpoint: Endpoint) -> None:
    endpoint.sandbox.misbehave = failing("incident-2", fault=Fault.answer(429))

    answer = endpoint.post([numbered(1), numbered(2), 7])

    assert (answer.status, answer.content["status"], answer.content["code"]) == (
        429,
        "deferred",
        "pagerduty_rate_limited",
    )


def test_the_first_of_429_503_and_504_decides(endpoint: Endpoint) -> None:
    def misbehave(call: Received) -> Fault | None:
        return {"incident-1": Fault.hang(), "incident-2": Fault.answer(500), "incident-3": Fault.answer(429)}.get(
            call.event["dedup_key"]
        )

    endpoint.sandbox.misbehave = misbehave

    assert endpoint.post([numbered(1), numbered(4)], milliseconds=1000).status == 504
    assert endpoint.post([numbered(1), numbered(2)], milliseconds=1000).status == 503
    assert endpoint.post([numbered(1), numbered(2), numbered(3)], milliseconds=1000).status == 429


def test_an_answer_that_lambda_would_refuse_is_shortened(endpoint: Endpoint) -> None:
    links = ["x" * 30 for _ in range(3)] + [1] * 30
    answer = preview(endpoint, [track(properties={"linkURLs": links}) for _ in range(5000)])

    assert answer.status == 200
    assert answer.content == {
        "status": "preview",
        "code": "preview",
        "message": "5000 events: 5000 preview (the rest of this answer was too long)",
    }


def test_events_of_one_dedup_key_go_out_in_order(endpoint: Endpoint) -> None:
    actions = ["trigger", "acknowledge", "resolve", "trigger", "resolve"]
    endpoint.post([track(messageId=f"m-{n}", properties={"action": action}) for n, action in enumerate(actions)])

    assert [received.event["event_action"] for received in endpoint.sandbox.received] == actions
    assert [incident.status for incident in endpoint.sandbox.incidents] == ["resolved", "resolved"]


def test_after_a_deferred_event_the_later_ones_of_its_key_wait(endpoint: Endpoint) -> None:
    endpoint.sandbox.misbehave = failing("disk-full", fault=Fault.answer(429))

    answer = endpoint.post([track(), track(messageId="m-2", properties={"action": "resolve"}), numbered(1)])

    assert [result["code"] for result in answer.content["results"]] == [
        "pagerduty_rate_limited",
        "held_back",
        "delivered",
    ]
    assert [received.event["event_action"] for received in endpoint.sandbox.received if not received.accepted] == [
        "trigger"
    ]


def test_an_event_that_pagerduty_refuses_does_not_hold_up_its_key(endpoint: Endpoint) -> None:
    endpoint.sandbox.misbehave = lambda call: Fault.answer(400, {"errors": ["no"]}) if call.number == 1 else None

    answer = endpoint.post([track(), track(messageId="m-2")])

    assert answer.status == 200
    assert [result["code"] for result in answer.content["results"]] == ["pagerduty_rejected", "delivered"]


def test_different_keys_go_out_at_the_same_time(endpoint: Endpoint) -> None:
    together = threading.Barrier(16, timeout=5)

    def wait_for_the_others(_: Received) -> None:
        together.wait()

    endpoint.sandbox.on_received = wait_for_the_others
    try:
        answer = endpoint.post([numbered(n) for n in range(16)])
    finally:
        endpoint.sandbox.on_received = None

    assert answer.status == 200


def test_a_retried_batch_does_not_page_again_for_what_was_delivered(endpoint: Endpoint) -> None:
    change = track(messageId="c-1", integrations={"pagerduty": {"type": "changeEvent"}})
    resolve = track(messageId="m-2", properties={"action": "resolve"})
    batch = [track(), resolve, change, numbered(1)]
    endpoint.sandbox.misbehave = failing("incident-1", fault=Fault.answer(503))
    first = endpoint.post(batch)
    endpoint.sandbox.misbehave = None
    second = endpoint.post(batch)

    assert (first.status, second.status) == (503, 200)
    assert [result["code"] for result in second.content["results"]] == [
        "already_delivered",
        "already_delivered",
        "already_delivered",
        "delivered",
    ]
    assert len(endpoint.sandbox.changes) == 1
    assert [incident.status for incident in endpoint.sandbox.incidents] == ["resolved", "triggered"]


def test_a_resolve_that_comes_again_without_its_trigger_is_sent_again(endpoint: Endpoint) -> None:
    resolve = track(messageId="m-2", properties={"action": "resolve"})
    endpoint.sandbox.misbehave = failing("incident-1", fault=Fault.answer(503))
    endpoint.post([track(), resolve, numbered(1)])
    endpoint.sandbox.misbehave = None

    # Another process gets the trigger of the retry, and opens the incident again.
    endpoint.post(track(messageId="as-new-as-for-another-process"))
    answer = endpoint.post([resolve])

    assert [result["code"] for result in answer.content["results"]] == ["delivered"]
    assert [incident.status for incident in endpoint.sandbox.incidents] == ["resolved", "resolved"]


def test_a_batch_that_is_sent_again_because_of_a_bug_is_not_delivered_twice(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(event: Any, *rest: Any) -> Any:
        if event == 7:
            raise ZeroDivisionError
        return map_event(event, *rest)

    monkeypatch.setattr(app, "map_event", broken)
    batch = [track(messageId="c-1", integrations={"pagerduty": {"type": "changeEvent"}}), 7]

    assert [endpoint.post(batch).status for _ in range(2)] == [500, 500]
    assert len(endpoint.sandbox.changes) == 1


# -- our own failures ------------------------------------------------------------------------------------------------


def test_a_bug_is_an_answer_that_is_tried_again(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    def broken(*_: object) -> None:
        raise ValueError(f"secret {TOKEN}")

    monkeypatch.setattr(app, "map_event", broken)
    answer = endpoint.post([track()])

    assert (answer.status, answer.content["code"]) == (500, "internal_error")
    assert '"exception_type":"ValueError"' in log.getvalue()
    assert TOKEN not in log.getvalue() + answer.raw


def test_a_request_that_api_gateway_would_not_make_is_answered_all_the_same(endpoint: Endpoint) -> None:
    response = app.lambda_handler({"headers": {"x-api-key": 7}}, LambdaContext())  # type: ignore[arg-type]  # a part

    assert response["statusCode"] == 500


def test_settings_that_make_no_sense_are_answered_with_every_problem(
    monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    monkeypatch.setenv("DEFAULT_SEVERITY", "loud")
    monkeypatch.setenv("PAGERDUTY_URL", "ftp://pagerduty")
    app.service.cache_clear()

    response = app.lambda_handler({"headers": {}}, LambdaContext())  # type: ignore[arg-type]  # a part

    assert response["statusCode"] == 500
    content = json.loads(response["body"])
    assert content["code"] == "settings_invalid"
    assert "DEFAULT_SEVERITY" in content["message"]
    assert "PAGERDUTY_URL" in content["message"]


# -- the log, and what must never be in it ---------------------------------------------------------------------------


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_each_event_has_one_line_in_the_log(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post([track(), track(type="page"), 7])

    assert [(line["outcome"], line["code"]) for line in lines(log)] == [
        ("delivered", "delivered"),
        ("ignored", "not_a_track_call"),
        ("rejected", "event_not_an_object"),
    ]
    assert (
        lines(log)[0].items()
        >= {
            "request_id": "11111111-2222-3333-4444-555555555555",
            "pagerduty_service": "default",
            "kind": "trigger",
            "outcome": "delivered",
            "code": "delivered",
            "message_id": "m-1",
            "dedup_key": "disk-full",
            "pagerduty_status": 202,
        }.items()
    )


def test_a_request_that_nobody_may_send_has_one_line_too(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post(track(), headers={"x-api-key": "a-wrong-secret-of-somebody"})

    (line,) = lines(log)
    assert (line["message"], line["code"], line["Unauthorized"]) == ("request", "unauthorized", 1)


def test_a_preview_that_nobody_may_send_is_logged_and_counts_as_nothing(endpoint: Endpoint, log: io.StringIO) -> None:
    headers = {"x-api-key": "a-wrong-secret-of-somebody"}
    answer = endpoint.post(track(), headers=headers, queryStringParameters={"preview": "True"})

    (line,) = lines(log)
    assert (answer.status, line["code"], "_aws" in line) == (401, "unauthorized", False)


def test_an_event_that_an_unclear_preview_kept_from_being_sent_is_counted(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post(track(), queryStringParameters={"preview": "1"})

    (line,) = lines(log)
    assert (line["code"], line["Rejected"]) == ("preview_unclear", 1)


def test_a_bug_in_a_request_is_counted_as_deferred(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(webhook, "read_events", broken)
    endpoint.post(track())

    assert [(line["message"], line.get("Deferred")) for line in lines(log)] == [("A bug", None), ("request", 1)]


def test_an_event_that_was_refused_in_a_preview_counts_as_nothing(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post(track(action=7, type="tarck"), queryStringParameters={"preview": "true"})

    (line,) = lines(log)
    assert (line["code"], "_aws" in line) == ("type_unknown", False)


@pytest.mark.parametrize(
    "fault",
    [
        None,
        Fault.answer(400, {"errors": [f"Invalid routing key {ROUTING_KEY}"]}),
        Fault.answer(400, {"message": f"{ROUTING_KEY} {TOKEN[:0]}"}),
        Fault.answer(403, ROUTING_KEY),
        Fault.answer(500, ROUTING_KEY),
        Fault.reset_before(),
        Fault.hang(),
    ],
)
def test_no_secret_is_in_any_log_or_answer(endpoint: Endpoint, log: io.StringIO, fault: Fault | None) -> None:
    endpoint.sandbox.misbehave = lambda _: fault
    answers = [
        endpoint.post(track(), milliseconds=900),
        endpoint.post([track(), 7, track(properties={"severity": "x"})], milliseconds=900),
        preview(endpoint, track()),
        endpoint.post("{"),
    ]
    endpoint.headers = {"authorization": "Bearer the-wrong-secret-of-somebody"}
    answers.append(endpoint.post(track()))

    said = log.getvalue() + "".join(answer.raw for answer in answers)
    assert TOKEN not in said
    assert ROUTING_KEY not in said
    assert "the-wrong-secret-of-somebody" not in said


def test_no_content_of_an_event_is_in_the_log(endpoint: Endpoint, log: io.StringIO) -> None:
    private = "private-thing"
    properties = {
        name: {"x": private} if name in {"customDetails", "group"} else private
        for name in ("customDetails", "group", "severity", "component", "client", "linkURLs", "imageURLs")
    }
    endpoint.post(track(event=private, properties=properties, context={"ip": private}))
    endpoint.post(track(event=private, properties={"action": private}))
    endpoint.post(track(type=private))

    assert private not in log.getvalue()


# -- queued delivery -------------------------------------------------------------------------------------------------


@pytest.fixture
def queued(make_endpoint: Callable[..., Endpoint], aws_url: str, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    client = boto3.client("sqs", endpoint_url=aws_url)
    url = client.create_queue(QueueName=f"{uuid.uuid4()}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    endpoint = make_endpoint()
    endpoint.delete("routing-keys/default")
    service = dataclasses.replace(endpoint.service, queue=sqs.Queue(client, url))
    monkeypatch.setattr(app, "service", lambda: service)
    endpoint.service = service
    return endpoint


def test_a_queued_event_is_answered_at_once_and_needs_no_routing_key(queued: Endpoint) -> None:
    answer = queued.post(track())

    assert answer.status == 200
    assert answer.content == {
        "status": "queued",
        "code": "queued",
        "message": "The queue took the alert event (trigger), and delivers it to PagerDuty",
        "dedup_key": "disk-full",
        "warnings": [],
    }
    assert queued.sandbox.received == []


def test_in_queued_delivery_the_sender_still_gets_its_clear_400(queued: Endpoint) -> None:
    answer = queued.post(track(properties={"action": "close"}))

    assert (answer.status, answer.content["code"]) == (400, "action_unknown")


def test_many_queued_events_have_a_result_each(queued: Endpoint) -> None:
    answer = queued.post([numbered(1), 7, numbered(1, action="resolve"), track(type="page")])

    assert (answer.status, answer.content["status"]) == (200, "queued")
    assert [result["status"] for result in answer.content["results"]] == ["queued", "rejected", "queued", "ignored"]


def test_a_queue_that_does_not_take_an_event_is_a_503(queued: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = sqs.Queue(
        boto3.client("sqs", endpoint_url="http://127.0.0.1:1", config=aws.CLIENT_CONFIG), "http://x/y.fifo"
    )
    service = dataclasses.replace(queued.service, queue=queue)
    monkeypatch.setattr(app, "service", lambda: service)

    answer = queued.post(track())

    assert (answer.status, answer.content["status"], answer.content["code"]) == (503, "deferred", "queue_unavailable")

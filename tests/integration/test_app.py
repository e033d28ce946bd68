"""The function as a whole: requests as API Gateway makes them in, answers out; SSM and PagerDuty are real servers."""

import base64
import gc
import gzip
import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

import app
import webhook
from chaos.faults import Failure, Fault, fail
from dependencies import Dependencies
from mapping import map_event
from paths import read_template
from settings import Rules, SettingsError
from tests.support import ROUTING_KEY, TOKEN, Clock, Endpoint, LambdaContext, track

SECOND_KEY = "s" * 32
NEXT_TOKEN = "the-next-secret-of-all"


def refusal(*errors: str) -> Fault:
    """Refuse as PagerDuty documents it."""
    return Fault.answer(400, {"status": "invalid event", "message": "Event object is invalid", "errors": list(errors)})


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def ssm_is_down(target: str, _: object) -> Failure | None:
    return Failure.answer(503, "InternalServerError") if target == "AmazonSSM.GetParameters" else None


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
    endpoint.put("webhook-token", f"{TOKEN} {NEXT_TOKEN}")
    endpoint.headers = {"x-api-key": NEXT_TOKEN}
    clock.now += 11

    assert endpoint.post(track()).status == 200


def test_for_a_secret_that_is_known_ssm_is_not_asked_again(
    make_endpoint: Callable[..., Endpoint], clock: Clock
) -> None:
    endpoint = make_endpoint(clock=clock)
    calls: list[str] = []
    fail(endpoint.aws, lambda target, _: calls.append(target))
    for _ in range(3):
        clock.now += 10
        endpoint.post(track())

    assert [call for call in calls if call.startswith("AmazonSSM")] == ["AmazonSSM.GetParameters"]


@pytest.mark.parametrize(("outage", "expected"), [(range(0), {200}), (range(16, 34), {200, 503})])
def test_changing_the_secret_loses_nothing_while_strangers_call_all_the_time(
    make_endpoint: Callable[..., Endpoint], clock: Clock, outage: range, expected: set[int]
) -> None:
    endpoint = make_endpoint(clock=clock)
    secret, told, strangers = TOKEN, set(), set()
    for quarter_of_a_second in range(60):
        clock.now += 0.25
        fail(endpoint.aws, ssm_is_down if quarter_of_a_second in outage else None)
        if quarter_of_a_second == 16:
            endpoint.put("webhook-token", f"{NEXT_TOKEN} {TOKEN}")
        if quarter_of_a_second == 20:
            secret = NEXT_TOKEN
        if quarter_of_a_second == 40:
            endpoint.put("webhook-token", NEXT_TOKEN)
        endpoint.headers = {"x-api-key": "a-secret-of-a-stranger"}
        strangers.add(endpoint.post(track()).status)
        endpoint.headers = {"x-api-key": secret}
        told.add(endpoint.post(track()).status)

    assert told == expected
    assert strangers <= {401, 503}


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
        "message": "PagerDuty accepted the event",
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
    endpoint.sandbox.on_call = lambda _: refusal("summary is odd")

    answer = endpoint.post(track())

    assert (answer.status, answer.content["status"], answer.content["code"]) == (400, "rejected", "pagerduty_rejected")
    assert "summary is odd" in answer.content["message"]


def test_a_refused_routing_key_is_read_again_at_most_once_a_second(
    make_endpoint: Callable[..., Endpoint], clock: Clock
) -> None:
    endpoint = make_endpoint(clock=clock)
    endpoint.sandbox.known_keys = {SECOND_KEY}

    answers = [endpoint.post(track())]
    endpoint.put("routing-keys/default", SECOND_KEY)
    for seconds in (0.9, 0.2):
        clock.now += seconds
        answers.append(endpoint.post(track()))

    assert [answer.content["code"] for answer in answers] == ["routing_key_refused", "routing_key_refused", "delivered"]
    assert answers[0].status == 503


def test_a_trigger_that_nothing_identifies_opens_one_incident_however_often_it_has_to_be_posted(
    endpoint: Endpoint,
) -> None:
    endpoint.sandbox.on_call = lambda call: Fault.reset_after() if call.number < 3 else None

    answer = endpoint.post(track(messageId=None, properties={"dedupKey": None}))

    assert [incident.triggers for incident in endpoint.sandbox.incidents] == [3]
    assert answer.content["dedup_key"] == endpoint.sandbox.incidents[0].dedup_key


@pytest.mark.parametrize(
    ("fault", "reason", "metric"),
    [
        (Fault.answer(429), "pagerduty_rate_limited", "QueuedPagerDuty"),
        (Fault.answer(500), "pagerduty_unavailable", "QueuedPagerDuty"),
        (Fault.answer(408), "pagerduty_unavailable", "QueuedPagerDuty"),
        (Fault.answer(403), "pagerduty_unexpected", "QueuedPagerDuty"),
        (Fault.answer(302), "pagerduty_unexpected", "QueuedPagerDuty"),
        (Fault.reset_before(), "pagerduty_unreachable", "QueuedPagerDuty"),
    ],
)
def test_what_pagerduty_does_not_accept_now_is_enqueued_and_the_answer_says_why(
    endpoint: Endpoint, log: io.StringIO, fault: Fault, reason: str, metric: str
) -> None:
    endpoint.sandbox.on_call = lambda _: fault

    answer = endpoint.post(track())

    assert (answer.status, answer.content["status"], answer.content["code"]) == (200, "queued", "queued")
    assert "Not at once: PagerDuty" in answer.content["message"]
    line = lines(log)[-1]
    assert (line["reason"], line["Queued"], line[metric]) == (reason, [1], [1])
    assert [message["dedup_key"] for message in enqueued(endpoint)] == ["disk-full"]


def test_a_pagerduty_that_hangs_costs_the_first_event_three_seconds_and_later_ones_nothing(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.hang()
    began = time.monotonic()
    first = endpoint.post(track())
    after = time.monotonic()
    second = endpoint.post(track(messageId="m-2"))

    assert [first.content["code"], second.content["code"]] == ["queued", "queued"]
    assert 3 <= after - began < 4.5
    assert time.monotonic() - after < 1.5
    assert len(endpoint.sandbox.received) == 1


def test_what_comes_after_a_queued_event_of_its_service_is_enqueued_too_and_other_services_are_not_held_up(
    teams: Endpoint, log: io.StringIO
) -> None:
    teams.post([track()])

    assert teams.post(track(messageId="m-2", properties={"action": "resolve"})).content["status"] == "queued"
    assert lines(log)[-1]["reason"] == "earlier_events_queued"
    assert teams.post(of_team("checkout")).content["status"] == "delivered"


def test_an_event_for_which_the_budget_has_no_call_is_enqueued_and_a_page_is_not(
    make_endpoint: Callable[..., Endpoint], clock: Clock, log: io.StringIO
) -> None:
    endpoint = make_endpoint(clock=clock, calls_per_minute=12)
    warning = {"severity": "warning", "dedupKey": "a"}
    statuses = [
        endpoint.post(track(messageId=f"m-{n}", properties=properties)).content["status"]
        for n, properties in enumerate([warning, {"dedupKey": "b"}, {"dedupKey": "c"}, warning])
    ]

    assert statuses == ["delivered", "delivered", "delivered", "queued"]
    assert [line.get("Urgent") for line in lines(log)] == [None, [1], [1], None]
    assert lines(log)[-1]["reason"] == "rate_limit_delay"


@pytest.mark.parametrize("code", ["InternalServerError", "ResourceNotFoundException", "AccessDeniedException"])
def test_without_dynamodb_events_are_enqueued_and_the_log_says_that_their_order_is_not_kept(
    endpoint: Endpoint, log: io.StringIO, code: str
) -> None:
    fail(endpoint.aws, lambda target, _: Failure.answer(400, code) if target.startswith("DynamoDB") else None)

    assert [endpoint.post(track(messageId=f"m-{n}")).content["status"] for n in range(2)] == ["queued", "queued"]
    first, *others = lines(log)
    assert (first["message"], first["FlowControlErrors"], first["detail"]) == ("flow control", [1], f"DynamoDB: {code}")
    assert [(line["message"], line.get("reason"), line["without_lease"], line["message_id"]) for line in others] == [
        ("without lease", None, True, "m-0"),
        ("event", "flow_control_unavailable", True, "m-0"),
        ("without lease", None, True, "m-1"),
        ("event", "flow_control_unavailable", True, "m-1"),
    ]


def test_a_page_that_the_queue_does_not_accept_is_posted_if_pagerduty_was_not_asked(
    endpoint: Endpoint, log: io.StringIO
) -> None:
    endpoint.post([track(messageId="m-0")])
    fail(
        endpoint.aws,
        lambda target, _: Failure.answer(503, "ServiceUnavailable") if target.startswith("AmazonSQS") else None,
    )
    page, warning = (
        endpoint.post(track(messageId=severity, properties={"dedupKey": severity, "severity": severity}))
        for severity in ("critical", "warning")
    )

    assert (page.status, page.content["status"]) == (200, "delivered")
    assert [line["reason"] for line in lines(log) if line["code"] == "delivered"] == ["queue_unavailable"]
    assert (warning.status, warning.content["code"]) == (503, "queue_unavailable")


def test_an_event_that_neither_pagerduty_nor_the_queue_accepts_is_sent_again(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.answer(503)
    fail(
        endpoint.aws,
        lambda target, _: Failure.answer(503, "ServiceUnavailable") if target.startswith("AmazonSQS") else None,
    )

    answer = endpoint.post(track())

    assert (answer.status, answer.content["status"], answer.content["code"]) == (503, "deferred", "queue_unavailable")
    assert len(endpoint.sandbox.received) == 3


def test_the_answer_comes_before_the_functions_own_time_limit(endpoint: Endpoint) -> None:
    endpoint.post(track())

    answer = endpoint.post(track(), milliseconds=400)

    assert (answer.status, answer.content["code"]) == (504, "deadline_exceeded")


def test_warnings_are_in_the_answer(endpoint: Endpoint) -> None:
    answer = endpoint.post(track(properties={"severity": "catastrophic"}))

    assert answer.content["warnings"] == [
        'properties.severity: expected critical, error, warning or info, got "catastrophic"; sent as critical'
    ]


def test_default_source_stands_in_for_a_missing_one(make_endpoint: Callable[..., Endpoint]) -> None:
    endpoint = make_endpoint(rules=Rules(default_source="shop"))

    endpoint.post(track(properties={"source": None}))

    assert endpoint.sandbox.received[0].event["payload"]["source"] == "shop"


# -- the PagerDuty service that an event names -----------------------------------------------------------------------

BY_TEAM = Rules(service_field=("properties", "team"))
NOT_SET_UP = "properties.team: PagerDuty service {} is not set up here; sent to default"


def of_team(team: str, **changes: Any) -> dict[str, Any]:
    return track(properties={"team": team, "dedupKey": f"{team}-is-down"}, **changes)


@pytest.fixture
def teams(make_endpoint: Callable[..., Endpoint]) -> Endpoint:
    """Wire the function so that events choose their service: there are `default`, `checkout` and `payments`."""
    return make_endpoint(rules=BY_TEAM, default=ROUTING_KEY, checkout=SECOND_KEY, payments="p" * 32)


def ssm_reads(endpoint: Endpoint) -> list[list[str]]:
    """Record which parameters SSM is asked for from now on."""
    reads: list[list[str]] = []

    def record(target: str, request: dict[str, Any]) -> None:
        if target == "AmazonSSM.GetParameters":
            reads.append([name.removeprefix(f"{endpoint.prefix}/") for name in request["Names"]])

    fail(endpoint.aws, record)
    return reads


def keys_received(endpoint: Endpoint) -> list[tuple[str, str]]:
    return [(call.event["routing_key"], call.event["dedup_key"]) for call in endpoint.sandbox.received]


def test_an_event_pages_the_service_that_it_names(teams: Endpoint) -> None:
    answer = teams.post(of_team("checkout"))

    assert (answer.status, answer.content["warnings"]) == (200, [])
    assert keys_received(teams) == [(SECOND_KEY, "checkout-is-down")]


def test_the_url_names_the_service_of_an_event_that_names_one_without_a_routing_key(teams: Endpoint) -> None:
    answer = teams.post(of_team("chekcout"))

    assert (answer.status, answer.content["warnings"]) == (200, [NOT_SET_UP.format("chekcout")])
    assert keys_received(teams) == [(ROUTING_KEY, "chekcout-is-down")]


def test_a_service_whose_parameter_holds_no_key_has_none(teams: Endpoint) -> None:
    teams.put("routing-keys/empty", " , ")

    assert teams.post(of_team("empty")).content["warnings"] == [NOT_SET_UP.format("empty")]


def test_while_ssm_cannot_tell_the_event_comes_again_instead_of_paging_somebody_else(teams: Endpoint) -> None:
    teams.post(of_team("payments"))
    fail(teams.aws, ssm_is_down)

    answer = teams.post(of_team("checkout"))

    assert (answer.status, answer.content["code"]) == (503, "secrets_unavailable")
    assert len(teams.sandbox.received) == 1


def test_an_outage_of_ssm_is_no_reason_to_believe_what_it_said_long_ago(
    make_endpoint: Callable[..., Endpoint], clock: Clock
) -> None:
    endpoint = make_endpoint(rules=BY_TEAM, clock=clock)
    endpoint.post(of_team("checkout"))
    clock.now += 60
    fail(endpoint.aws, ssm_is_down)

    assert endpoint.post(of_team("checkout")).status == 503


def test_the_events_of_a_batch_go_each_to_its_own_service(teams: Endpoint) -> None:
    events = [of_team("checkout"), of_team("nobody"), track(), of_team("payments"), {"type": "identify"}]
    answer = teams.post([event | {"messageId": str(number)} for number, event in enumerate(events)])

    teams.work()

    assert answer.status == 200
    assert [len(result["warnings"]) for result in answer.content["results"]] == [0, 1, 1, 0, 0]
    assert sorted(keys_received(teams)) == [
        (ROUTING_KEY, "disk-full"),
        (ROUTING_KEY, "nobody-is-down"),
        ("p" * 32, "payments-is-down"),
        (SECOND_KEY, "checkout-is-down"),
    ]


def test_ssm_is_asked_for_the_services_of_a_batch_once_and_ten_in_a_call(teams: Endpoint) -> None:
    teams.post(track())
    reads = ssm_reads(teams)

    teams.post([of_team(f"team-{number % 25}") for number in range(100)])

    assert reads == [
        [f"routing-keys/team-{number}" for number in range(first, min(first + 10, 25))] for first in (0, 10, 20)
    ]


def test_of_very_many_services_in_one_request_a_hundred_are_looked_up_and_the_others_events_go_to_the_urls(
    teams: Endpoint,
) -> None:
    teams.post(track())
    reads = ssm_reads(teams)

    answer = teams.post([of_team(f"team-{number}") for number in range(200)])

    assert answer.status == 200
    assert len(reads) == 10
    assert {result["warnings"][0].partition("is ")[2] for result in answer.content["results"][:100]} == {
        "not set up here; sent to default"
    }
    assert {result["warnings"][0].partition("is ")[2] for result in answer.content["results"][100:]} == {
        "one of more than 100 in one request; sent to default"
    }


def test_an_event_of_a_batch_waits_in_the_queue_for_a_routing_key_that_cannot_be_read(teams: Endpoint) -> None:
    teams.post(of_team("payments"))
    fail(teams.aws, ssm_is_down)

    answer = teams.post([of_team("checkout"), of_team("payments", messageId="m-2")])

    assert answer.status == 200
    assert [result["code"] for result in answer.content["results"]] == ["queued", "queued"]


def test_a_preview_names_the_service_and_the_one_that_stands_in_for_it(teams: Endpoint) -> None:
    known, unknown = (
        teams.post(of_team(team), queryStringParameters={"preview": "true"}) for team in ("checkout", "x")
    )

    assert "PagerDuty service checkout" in known.content["message"]
    assert "PagerDuty service default" in unknown.content["message"]
    assert unknown.content["warnings"] == [NOT_SET_UP.format("x")]


@pytest.mark.parametrize(("team", "dimension"), [("checkout", "checkout"), ("made-up", "default")])
def test_a_metric_is_of_the_service_that_was_paged(
    teams: Endpoint, log: io.StringIO, team: str, dimension: str
) -> None:
    teams.post(of_team(team))
    (line,) = [json.loads(line) for line in log.getvalue().splitlines() if "pagerduty_service" in line]

    assert (line["pagerduty_service"], line["status"]) == (dimension, "delivered")


def test_a_service_that_the_event_may_not_choose_is_not_looked_at(make_endpoint: Callable[..., Endpoint]) -> None:
    endpoint = make_endpoint(default=ROUTING_KEY, checkout=SECOND_KEY)

    endpoint.post(of_team("checkout"))

    assert keys_received(endpoint) == [(ROUTING_KEY, "checkout-is-down")]


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


@pytest.mark.parametrize(("path", "code"), [("/v1/track", "not_for_pagerduty"), ("/events", "delivered")])
def test_all_destinations_switched_off_counts_where_no_data_plane_has_filtered(
    endpoint: Endpoint, path: str, code: str
) -> None:
    assert (
        endpoint.post(track(integrations={"All": False, "Google Analytics": True}), path=path).content["code"] == code
    )


def test_an_event_with_a_number_that_json_does_not_have_costs_no_other_its_page(endpoint: Endpoint) -> None:
    answer = endpoint.post([numbered(1), numbered(2, usage=float("nan")), numbered(3)])

    assert [result["code"] for result in answer.content["results"]] == ["queued"] * 3


@pytest.mark.parametrize("body", ["", " ", "{", "null", "7", '"x"', "[]", '{"batch": []}', '{"batch": 7}', "NaN"])
def test_a_body_without_events_is_final(endpoint: Endpoint, body: str) -> None:
    assert endpoint.post(body).status == 400


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (track(padding="x" * 5_300_000), "body_too_large"),
        ([0] * 201, "too_many_events"),
        ({"batch": [0] * 201}, "too_many_events"),
    ],
)
def test_what_is_too_much_at_once_is_final(endpoint: Endpoint, content: object, code: str) -> None:
    answer = endpoint.post(content)

    assert (answer.status, answer.content["code"]) == (413, code)


def test_two_hundred_events_are_accepted_at_once(endpoint: Endpoint) -> None:
    assert len(endpoint.post([0] * 200).content["results"]) == 200


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
        "message": "Would send this alert event (trigger) to PagerDuty service default. Nothing was sent.",
        "dedup_key": "disk-full",
        "warnings": [],
        "event": {
            "event_action": "trigger",
            "dedup_key": "disk-full",
            "payload": {"summary": "Disk is full", "severity": "critical", "source": "db-1"},
        },
    }
    assert endpoint.sandbox.received == []


def test_a_preview_warns_about_a_path_that_finds_nothing(make_endpoint: Callable[..., Endpoint]) -> None:
    endpoint = make_endpoint(rules=Rules(summary_template=read_template("{event} on {properties.nope}")))

    assert preview(endpoint, track()).content["warnings"] == ["properties.nope: nothing found in this event"]
    assert endpoint.post(track()).content["warnings"] == []


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

    assert (answer.status, answer.content["code"]) == (400, "preview_invalid")
    assert endpoint.sandbox.received == []


def test_preview_false_sends(endpoint: Endpoint) -> None:
    preview(endpoint, track(), "false")

    assert len(endpoint.sandbox.received) == 1


# -- many events -----------------------------------------------------------------------------------------------------


def numbered(n: int, **properties: Any) -> dict[str, Any]:
    return track(messageId=f"m-{n}", properties={"dedupKey": f"incident-{n}", **properties})


def bodies(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(record["body"]) for record in records]


def enqueued(endpoint: Endpoint) -> list[dict[str, Any]]:
    return bodies(endpoint.received(endpoint.deps.settings.queue_url))


def test_several_events_go_through_the_queue(endpoint: Endpoint) -> None:
    answer = endpoint.post([numbered(1), 7, track(type="identify"), numbered(2, action="close"), numbered(3)])

    assert answer.status == 200
    assert answer.content["message"] == "5 events: 2 queued, 2 rejected, 1 ignored"
    assert [result["code"] for result in answer.content["results"]] == [
        "queued",
        "event_not_an_object",
        "not_a_track_call",
        "action_unknown",
        "queued",
    ]
    assert endpoint.sandbox.received == []
    assert [message["dedup_key"] for message in enqueued(endpoint)] == ["incident-1", "incident-3"]


def test_an_array_of_one_goes_through_the_queue_too(endpoint: Endpoint) -> None:
    assert [result["status"] for result in endpoint.post([track()]).content["results"]] == ["queued"]


def test_many_events_that_are_all_refused_are_final(endpoint: Endpoint) -> None:
    answer = endpoint.post([7, numbered(1, action="close")])

    assert (answer.status, answer.content["status"]) == (400, "rejected")


def test_a_batch_that_has_to_be_sent_again_loses_no_page_and_doubles_none(endpoint: Endpoint) -> None:
    batch = [
        track(messageId="m-1", properties={"action": "resolve"}),
        track(messageId="m-2"),
        track(messageId="m-3", properties={"dedupKey": "other"}),
    ]
    endpoint.post(track(messageId="m-0"))
    fail(endpoint.aws, lambda _, request: Failure.entries("2") if len(request.get("Entries", [])) > 1 else None)
    first = endpoint.post(batch)
    fail(endpoint.aws, None)
    again = endpoint.post(batch)
    while records := endpoint.received(endpoint.deps.settings.queue_url):
        assert endpoint.work(records) == []
        for record in records:
            endpoint.aws.client("sqs").delete_message(
                QueueUrl=endpoint.deps.settings.queue_url, ReceiptHandle=record["receiptHandle"]
            )

    assert (first.status, again.status) == (503, 200)
    assert [(incident.dedup_key, incident.status) for incident in endpoint.sandbox.incidents] == [
        ("disk-full", "resolved"),
        ("disk-full", "triggered"),
        ("other", "triggered"),
    ]


def test_one_event_that_the_queue_does_not_accept_makes_the_sender_send_all_again(endpoint: Endpoint) -> None:
    fail(endpoint.aws, lambda _, request: Failure.entries("1") if "Entries" in request else None)

    answer = endpoint.post([numbered(1), numbered(2), 7])

    assert (answer.status, answer.content["status"], answer.content["code"]) == (503, "deferred", "queue_unavailable")
    assert [result["status"] for result in answer.content["results"]] == ["queued", "deferred", "rejected"]


def test_an_answer_that_lambda_would_refuse_is_shortened(endpoint: Endpoint) -> None:
    answer = preview(endpoint, [track(properties={"linkURLs": "x" * 20_000}) for _ in range(200)])

    assert answer.status == 200
    assert answer.content == {
        "status": "preview",
        "code": "preview",
        "message": "200 events: 200 preview (the rest of this answer was too long)",
    }


def test_a_service_without_a_routing_key_is_seen_before_anything_is_enqueued(endpoint: Endpoint) -> None:
    answer = endpoint.post([numbered(1), 7], path="/events/checkuot")

    assert answer.status == 503
    assert [result["code"] for result in answer.content["results"]] == ["routing_key_missing", "event_not_an_object"]
    assert "/routing-keys/checkuot" in answer.content["message"]
    assert enqueued(endpoint) == []


@pytest.fixture
def broken_at_seven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the mapping fail on the number 7."""

    def broken(event: Any, *rest: Any, **more: Any) -> Any:
        if event == 7:
            raise ZeroDivisionError
        return map_event(event, *rest, **more)

    monkeypatch.setattr(app, "map_event", broken)


@pytest.mark.usefixtures("broken_at_seven")
def test_a_batch_with_an_event_on_which_the_function_fails_is_not_repeated(
    endpoint: Endpoint, log: io.StringIO
) -> None:
    answer = endpoint.post([numbered(1), 7, numbered(2)])

    assert answer.status == 200
    assert [result["code"] for result in answer.content["results"]] == ["queued", "event_failed", "queued"]
    assert [line.get("exception_type") for line in lines(log)][:1] == ["ZeroDivisionError"]
    assert [line["Rejected"] for line in lines(log) if line.get("code") == "event_failed"] == [[1]]


@pytest.mark.usefixtures("broken_at_seven")
def test_a_batch_of_which_nothing_was_queued_is_repeated_after_a_failure_of_the_function(endpoint: Endpoint) -> None:
    answer = endpoint.post([7, 8])

    assert (answer.status, answer.content["code"]) == (500, "internal_error")


def test_one_message_id_of_a_batch_that_is_very_long_does_not_have_it_repeated(endpoint: Endpoint) -> None:
    answer = endpoint.post([numbered(1), track(messageId="m" * 1_000_000)])

    assert answer.status == 200


# -- our own failures ------------------------------------------------------------------------------------------------


def test_a_mistake_of_ours_is_an_answer_that_is_tried_again(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError(f"secret {TOKEN}")

    monkeypatch.setattr(app, "map_event", broken)
    answer = endpoint.post(track())

    assert (answer.status, answer.content["code"]) == (500, "internal_error")
    assert '"exception_type":"ValueError"' in log.getvalue()
    assert TOKEN not in log.getvalue() + answer.raw


def test_a_request_that_api_gateway_would_not_make_is_answered_all_the_same(endpoint: Endpoint) -> None:
    response = app.handle({"headers": {"x-api-key": 7}}, LambdaContext(), endpoint.deps)  # type: ignore[arg-type]  # a part

    assert response["statusCode"] == 500


def test_invalid_settings_are_answered_with_every_problem() -> None:
    environment = {"DEFAULT_SEVERITY": "loud", "PAGERDUTY_URL": "ftp://pagerduty"}
    with pytest.raises(SettingsError) as raised:
        Dependencies.from_environment(environment)

    response = app.handle({"headers": {}}, LambdaContext(), raised.value)  # type: ignore[arg-type]  # a part

    content = json.loads(response["body"])
    assert (response["statusCode"], content["code"]) == (500, "settings_invalid")
    assert all(name in content["message"] for name in ("DEFAULT_SEVERITY", "PAGERDUTY_URL", "QUEUE_URL", "FLOW_TABLE"))


def test_an_event_that_is_too_large_for_pagerduty_is_cut_and_delivered(endpoint: Endpoint) -> None:
    answer = endpoint.post(track(properties={"customDetails": {"dump": "x" * 600_000, "host": "db-1"}}))

    assert (answer.status, answer.content["code"]) == (200, "delivered")
    assert endpoint.sandbox.received[0].event["payload"]["custom_details"]["host"] == "db-1"


# -- the process ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [json.dumps(track()), "{", "[]"])
def test_the_search_for_garbage_goes_on_after_a_request(endpoint: Endpoint, body: str) -> None:
    endpoint.post(body)

    assert gc.isenabled()


def test_there_is_no_search_for_garbage_before_the_body_is_let_go_of(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    enabled: list[bool] = []
    answer = webhook.answer

    def note(*outcomes: Any, **more: Any) -> dict[str, Any]:
        enabled.append(gc.isenabled())
        return answer(*outcomes, **more)

    monkeypatch.setattr(webhook, "answer", note)

    assert endpoint.post(track()).status == 200

    assert enabled == [False]


# -- the log, and what must never be in it ---------------------------------------------------------------------------


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_each_event_has_one_line_in_the_log(
    endpoint: Endpoint, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LambdaContext, "aws_request_id", "the request of this test")
    endpoint.post([track(), track(type="page"), 7])

    assert [(line["status"], line["code"]) for line in lines(log)] == [
        ("queued", "queued"),
        ("ignored", "not_a_track_call"),
        ("rejected", "event_not_an_object"),
    ]
    assert (
        lines(log)[0].items()
        >= {
            "request_id": "the request of this test",
            "pagerduty_service": "default",
            "event_type": "trigger",
            "status": "queued",
            "code": "queued",
            "message_id": "m-1",
            "dedup_key": "disk-full",
        }.items()
    )


def test_a_refused_event_can_be_found_in_the_log(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post([track(), track(messageId="m-2", properties={"action": "close"})])

    line = lines(log)[1]
    assert (line["message_id"], line["dedup_key"], line["code"]) == ("m-2", "disk-full", "action_unknown")


def test_a_request_that_nobody_may_send_has_one_line_too(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post(track(), headers={"x-api-key": "a-wrong-secret-of-somebody"})

    (line,) = lines(log)
    assert (line["message"], line["code"], line["Unauthorized"]) == ("request", "unauthorized", [1])


def test_a_preview_that_nobody_may_send_is_logged_and_counts_as_nothing(endpoint: Endpoint, log: io.StringIO) -> None:
    headers = {"x-api-key": "a-wrong-secret-of-somebody"}
    answer = endpoint.post(track(), headers=headers, queryStringParameters={"preview": "True"})

    (line,) = lines(log)
    assert (answer.status, line["code"], "_aws" in line) == (401, "unauthorized", False)


def test_an_event_that_an_unclear_preview_kept_from_being_sent_is_counted(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post(track(), queryStringParameters={"preview": "1"})

    (line,) = lines(log)
    assert (line["code"], line["Rejected"]) == ("preview_invalid", [1])


def test_a_mistake_of_ours_in_a_request_is_counted_as_deferred(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(webhook, "read_events", broken)
    endpoint.post(track())

    assert [(line["message"], line.get("Deferred")) for line in lines(log)] == [
        ("Unexpected exception", None),
        ("request", [1]),
    ]


def test_an_event_that_was_refused_in_a_preview_counts_as_nothing(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post(track(action=7, type="tarck"), queryStringParameters={"preview": "true"})

    (line,) = lines(log)
    assert (line["code"], "_aws" in line) == ("type_unknown", False)


@pytest.mark.parametrize(
    "fault",
    [
        None,
        refusal(f"Invalid routing key {ROUTING_KEY}"),
        refusal(f"{'x' * 280} {ROUTING_KEY.upper()}"),
        Fault.answer(202, {"status": "success", "message": "m", "dedup_key": ROUTING_KEY}),
        Fault.answer(403, ROUTING_KEY),
        Fault.answer(500, ROUTING_KEY),
        Fault.reset_before(),
        Fault.hang(),
    ],
)
def test_no_secret_is_in_any_log_or_answer(endpoint: Endpoint, log: io.StringIO, fault: Fault | None) -> None:
    endpoint.sandbox.on_call = lambda _: fault
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

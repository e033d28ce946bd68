"""The API function's five steps together: requests in, answers out; AWS and PagerDuty are local servers."""

import gc
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

import app
import webhook
from chaos.faults import Failure, NetworkFault, fail
from local.sandbox import Fault
from mapping import map_event
from paths import read_template
from settings import Rules, SettingsError
from tests.support import ROUTING_KEY, TOKEN, Answer, Clock, Endpoint, LambdaContext, down, lines, track

SECOND_KEY = "s" * 32
NEXT_TOKEN = "the-next-token-of-all"
WRONG_TOKEN = "a-token-that-is-wrong"
PREVIEW = {"preview": "true"}

Make = Callable[..., Endpoint]


def refusal(*errors: str) -> Fault:
    """Refuse as PagerDuty documents it."""
    return Fault.answer(400, {"status": "invalid event", "message": "Event object is invalid", "errors": list(errors)})


def numbered(n: int, **properties: Any) -> dict[str, Any]:
    return track(messageId=f"m-{n}", properties={"dedupKey": f"incident-{n}", **properties})


def codes(answer: Answer) -> list[str]:
    return [result["code"] for result in answer.content["results"]]


def enqueued(endpoint: Endpoint) -> list[str]:
    """Receive the events in the queue; return their dedup keys."""
    return [json.loads(each["body"])["dedup_key"] for each in endpoint.received()]


def posted_keys(endpoint: Endpoint) -> list[str]:
    return [call.event["routing_key"] for call in endpoint.sandbox.received]


# -- authentication ----------------------------------------------------------------------------------------------------


def test_a_request_is_authenticated_before_anything_else_of_it_is_read(endpoint: Endpoint, log: io.StringIO) -> None:
    wrong = {"x-api-key": WRONG_TOKEN}
    query = {"preview": "unclear"}
    answer = endpoint.post("{", path="/events/not a name", headers=wrong, queryStringParameters=query)

    assert (answer.status, answer.content["code"]) == (401, "unauthorized")
    assert [(line["message"], line["code"], line["Unauthorized"]) for line in lines(log)] == [
        ("request", "unauthorized", [1])
    ]


def test_an_unauthorized_preview_is_not_counted(endpoint: Endpoint, log: io.StringIO) -> None:
    answer = endpoint.post(track(), headers={"x-api-key": WRONG_TOKEN}, queryStringParameters=PREVIEW)

    assert (answer.status, ["_aws" in line for line in lines(log)]) == (401, [False])


def test_a_known_token_is_not_read_again_and_a_new_one_is_read_at_once(make_endpoint: Make, clock: Clock) -> None:
    endpoint = make_endpoint(clock=clock)
    calls: list[str] = []
    fail(endpoint.aws, lambda target, _: calls.append(target) if target.startswith("AmazonSSM") else None)
    for _ in range(2):
        endpoint.post(track())
        clock.now += 10
    assert calls == ["AmazonSSM.GetParameters"]

    endpoint.put("webhook-token", f"{TOKEN} {NEXT_TOKEN}")
    assert endpoint.post(track(), headers={"x-api-key": NEXT_TOKEN}).status == 200


# -- one event ---------------------------------------------------------------------------------------------------------


def test_the_path_names_the_pagerduty_service(make_endpoint: Make) -> None:
    endpoint = make_endpoint(default=ROUTING_KEY, checkout=SECOND_KEY)

    answers = [endpoint.post(track(), path=f"/events/{name}") for name in ("checkout", "chekcout", "a b")]

    assert posted_keys(endpoint) == [SECOND_KEY]
    assert [(answer.status, answer.content["code"]) for answer in answers] == [
        (200, "delivered"),
        (503, "routing_key_missing"),
        (404, "no_such_service"),
    ]


def test_on_v1_track_the_path_is_the_type_and_integrations_all_counts(endpoint: Endpoint) -> None:
    for path, codes_there in (("/v1/track", ["delivered", "not_for_pagerduty"]), ("/events", ["type_missing"] * 2)):
        events = [track(type=None), track(type=None, integrations={"All": False})]

        assert [endpoint.post(event, path=path).content["code"] for event in events] == codes_there


def test_an_event_that_is_too_large_for_pagerduty_is_shortened_and_delivered(endpoint: Endpoint) -> None:
    endpoint.post(track(properties={"customDetails": {"dump": "x" * 600_000, "host": "db-1"}}))

    assert endpoint.sandbox.received[0].event["payload"]["custom_details"]["host"] == "db-1"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [("summary is odd", 400, "pagerduty_rejected"), ("Invalid routing key", 503, "routing_key_refused")],
)
def test_a_refusal_by_pagerduty_is_answered_and_the_event_is_not_enqueued(
    endpoint: Endpoint, error: str, status: int, code: str
) -> None:
    endpoint.sandbox.on_call = lambda _: refusal(error)

    answer = endpoint.post(track())

    assert (answer.status, answer.content["code"]) == (status, code)
    assert error in answer.content["message"]
    assert enqueued(endpoint) == []


def test_a_trigger_without_any_id_opens_one_incident_even_if_its_answers_are_lost(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda call: NetworkFault.reset_after() if call.number < 3 else None

    answer = endpoint.post(track(messageId=None, properties={"dedupKey": None}))

    assert [incident.triggers for incident in endpoint.sandbox.incidents] == [3]
    assert answer.content["dedup_key"] == endpoint.sandbox.incidents[0].dedup_key


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.answer(429), "pagerduty_rate_limited"),
        (Fault.answer(408), "pagerduty_unavailable"),
        (Fault.answer(403), "pagerduty_unexpected"),
        (NetworkFault.reset_before(), "pagerduty_unreachable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_event_that_pagerduty_does_not_accept_now_is_enqueued_and_the_answer_says_why(
    endpoint: Endpoint, log: io.StringIO, fault: Fault, reason: str
) -> None:
    endpoint.sandbox.on_call = lambda _: fault

    answer = endpoint.post(track())

    assert (answer.status, answer.content["status"], answer.content["code"]) == (200, "queued", "queued")
    assert "Not at once: PagerDuty" in answer.content["message"]
    line = lines(log)[-1]
    assert (line["reason"], line["QueuedPagerDuty"], line["Urgent"]) == (reason, [1], [1])
    assert len(line["PagerDutyTime"]) == 1
    assert enqueued(endpoint) == ["disk-full"]


def test_an_event_behind_a_queued_one_of_its_service_is_enqueued_too(make_endpoint: Make, log: io.StringIO) -> None:
    endpoint = make_endpoint(default=ROUTING_KEY, checkout=SECOND_KEY)
    endpoint.post([track()])

    assert endpoint.post(track(messageId="m-2", properties={"action": "resolve"})).content["status"] == "queued"
    assert lines(log)[-1]["reason"] == "earlier_events_queued"
    assert endpoint.post(track(), path="/events/checkout").content["status"] == "delivered"


def test_when_the_budget_is_spent_a_warning_is_enqueued_and_a_page_is_posted(
    make_endpoint: Make, clock: Clock, log: io.StringIO
) -> None:
    endpoint = make_endpoint(clock=clock, calls_per_minute=12)
    for n, severity in enumerate(["warning", "critical", "critical", "warning"]):
        endpoint.post(numbered(n, severity=severity))

    assert [(line["status"], line.get("Urgent"), line.get("reason")) for line in lines(log)] == [
        ("delivered", None, None),
        ("delivered", [1], None),
        ("delivered", [1], None),
        ("queued", None, "rate_limit_delay"),
    ]


def test_without_dynamodb_events_are_enqueued_and_the_log_says_that_their_order_is_not_kept(
    endpoint: Endpoint, log: io.StringIO
) -> None:
    fail(endpoint.aws, down("DynamoDB"))

    assert endpoint.post(track()).content["status"] == "queued"
    assert [(line["message"], line.get("reason"), line.get("without_lease")) for line in lines(log)] == [
        ("flow control", None, None),
        ("without lease", None, True),
        ("event", "flow_control_unavailable", True),
    ]


def test_a_page_that_the_queue_does_not_accept_is_posted_if_pagerduty_was_not_asked(
    endpoint: Endpoint, log: io.StringIO
) -> None:
    endpoint.post([track(messageId="m-0")])
    fail(endpoint.aws, down("AmazonSQS"))
    page = endpoint.post(numbered(1, severity="critical"))
    line = lines(log)[-1]
    warning = endpoint.post(numbered(2, severity="warning"))

    assert (page.status, page.content["status"]) == (200, "delivered")
    assert (line["reason"], line["Urgent"]) == ("queue_unavailable", [1])
    assert (warning.status, warning.content["code"]) == (503, "queue_unavailable")


def test_an_event_that_neither_pagerduty_nor_the_queue_accepts_is_to_be_sent_again(endpoint: Endpoint) -> None:
    endpoint.sandbox.on_call = lambda _: Fault.answer(503)
    fail(endpoint.aws, down("AmazonSQS"))

    answer = endpoint.post(track())

    assert (answer.status, answer.content["status"], answer.content["code"]) == (503, "deferred", "queue_unavailable")
    assert len(endpoint.sandbox.received) == 3


# -- the PagerDuty service that an event names -------------------------------------------------------------------------


def of_team(team: str) -> dict[str, Any]:
    return track(messageId=team, properties={"team": team, "dedupKey": f"{team}-is-down"})


@pytest.fixture
def teams(make_endpoint: Make) -> Endpoint:
    """Let events name their service in `properties.team`; there are `default` and `checkout`."""
    return make_endpoint(rules=Rules(service_field=("properties", "team")), default=ROUTING_KEY, checkout=SECOND_KEY)


def test_an_event_pages_the_service_that_it_names_or_else_that_of_the_url(teams: Endpoint, log: io.StringIO) -> None:
    checkout, unknown = (teams.post(of_team(team)) for team in ("checkout", "chekcout"))
    preview = teams.post(of_team("chekcout"), queryStringParameters=PREVIEW)

    assert checkout.content["warnings"] == []
    warning = "properties.team: PagerDuty service chekcout is not set up here; sent to default"
    assert unknown.content["warnings"] == preview.content["warnings"] == [warning]
    assert "PagerDuty service default." in preview.content["message"]
    assert posted_keys(teams) == [SECOND_KEY, ROUTING_KEY]
    assert [line["pagerduty_service"] for line in lines(log)] == ["checkout", "default", "default"]


def test_while_ssm_is_down_an_event_does_not_page_another_service(teams: Endpoint) -> None:
    teams.post(track())
    fail(teams.aws, down("AmazonSSM"))

    answer = teams.post(of_team("checkout"))
    batch = teams.post([of_team("checkout"), track()])

    assert (answer.status, answer.content["code"]) == (503, "secrets_unavailable")
    assert (batch.status, codes(batch)) == (200, ["queued", "queued"])
    assert len(teams.sandbox.received) == 1


def test_the_services_of_a_batch_are_looked_up_ten_in_a_call_and_a_hundred_at_most(teams: Endpoint) -> None:
    teams.post(track())
    reads: list[object] = []
    fail(teams.aws, lambda target, request: reads.append(request) if target.startswith("AmazonSSM") else None)

    answer = teams.post([track(type="page"), of_team("checkout"), *[of_team(f"team-{n}") for n in range(100)]])

    assert len(reads) == 10
    assert [[warning.partition(" is ")[2] for warning in each["warnings"]] for each in answer.content["results"]] == [
        *([], []),
        *[["not set up here; sent to default"]] * 99,
        ["one of more than 100 in one request; sent to default"],
    ]


# -- preview -----------------------------------------------------------------------------------------------------------


def test_a_preview_shows_each_event_and_sends_nothing_and_needs_no_routing_key(
    endpoint: Endpoint, log: io.StringIO
) -> None:
    one = endpoint.post(track(), path="/events/missing", queryStringParameters=PREVIEW)
    several = endpoint.post([track(), track(type="tarck")], queryStringParameters=PREVIEW)

    assert (one.status, several.status) == (200, 200)
    message = "Would send this alert event (trigger) to PagerDuty service missing. Nothing was sent."
    assert one.content["message"] == message
    assert one.content["event"] == {
        "event_action": "trigger",
        "dedup_key": "disk-full",
        "payload": {"summary": "Disk is full", "severity": "critical", "source": "db-1"},
    }
    assert codes(several) == ["preview", "type_unknown"]
    assert (endpoint.sandbox.received, enqueued(endpoint)) == ([], [])
    assert ["_aws" in line for line in lines(log)] == [False, False, False]


def test_a_preview_warns_about_a_path_that_finds_nothing(make_endpoint: Make) -> None:
    endpoint = make_endpoint(rules=Rules(summary_template=read_template("{event} on {properties.nope}")))
    preview = endpoint.post(track(), queryStringParameters=PREVIEW)

    assert preview.content["warnings"] == ["properties.nope: nothing found in this event"]
    assert endpoint.post(track()).content["warnings"] == []


def test_an_unclear_preview_sends_nothing_and_is_counted_as_rejected(endpoint: Endpoint, log: io.StringIO) -> None:
    answer = endpoint.post(track(), queryStringParameters={"preview": "1"})

    assert (answer.status, answer.content["code"], endpoint.sandbox.received) == (400, "preview_invalid", [])
    assert [line["Rejected"] for line in lines(log)] == [[1]]


# -- many events -------------------------------------------------------------------------------------------------------


def test_several_events_go_through_the_queue(endpoint: Endpoint, log: io.StringIO) -> None:
    answer = endpoint.post([numbered(1), 7, track(type="identify"), numbered(2, action="close"), numbered(3)])

    assert answer.status == 200
    assert answer.content["message"] == "5 events: 2 queued, 2 rejected, 1 ignored"
    assert codes(answer) == ["queued", "event_not_an_object", "not_a_track_call", "action_unknown", "queued"]
    assert endpoint.sandbox.received == []
    assert enqueued(endpoint) == ["incident-1", "incident-3"]
    assert [line.get("reason") for line in lines(log)] == ["several_events", None, None, None, "several_events"]


def test_a_batch_of_which_the_queue_does_not_accept_one_event_is_to_be_sent_again(endpoint: Endpoint) -> None:
    fail(endpoint.aws, lambda _, request: Failure.entries("1") if "Entries" in request else None)

    answer = endpoint.post([numbered(1), numbered(2), 7])

    assert (answer.status, answer.content["code"]) == (503, "queue_unavailable")
    assert codes(answer) == ["queued", "queue_unavailable", "event_not_an_object"]


def test_nothing_is_enqueued_for_a_service_without_a_routing_key(endpoint: Endpoint) -> None:
    answer = endpoint.post([numbered(1), 7], path="/events/checkuot")

    assert (answer.status, codes(answer)) == (503, ["routing_key_missing", "event_not_an_object"])
    assert "/routing-keys/checkuot" in answer.content["message"]
    assert enqueued(endpoint) == []


# -- faults of the function, the log -----------------------------------------------------------------------------------


def test_a_batch_with_an_event_on_which_the_function_fails_is_not_retried(
    endpoint: Endpoint, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(event: Any, *rest: Any) -> Any:
        if event in (7, 8) or event["messageId"] == "m-3":
            raise ZeroDivisionError(f"secret {TOKEN}")
        return map_event(event, *rest)

    monkeypatch.setattr(app, "map_event", broken)
    answer = endpoint.post([numbered(1), numbered(3), numbered(2)])

    assert (answer.status, codes(answer)) == (200, ["queued", "event_failed", "queued"])
    assert lines(log)[0]["exception_type"] == "ZeroDivisionError"
    failed = [line for line in lines(log) if line.get("code") == "event_failed"]
    assert [(line["Rejected"], line["message_id"]) for line in failed] == [([1], "m-3")]
    assert TOKEN not in f"{log.getvalue()}{answer}"

    answer = endpoint.post([7, 8])
    assert (answer.status, answer.content["code"]) == (500, "internal_error")


def test_a_request_on_which_the_function_fails_is_to_be_sent_again_and_counted(
    endpoint: Endpoint, log: io.StringIO
) -> None:
    response = app.handle({"headers": {"x-api-key": 7}}, LambdaContext(), endpoint.deps)  # type: ignore[arg-type]  # a part

    assert (response["statusCode"], json.loads(response["body"])["code"]) == (500, "internal_error")
    assert [(line["message"], line.get("Deferred")) for line in lines(log)] == [
        ("Unexpected exception", None),
        ("request", [1]),
    ]


def test_invalid_settings_are_answered_with_every_problem() -> None:
    response = app.handle({"headers": {}}, LambdaContext(), SettingsError(["QUEUE_URL: x", "FLOW_TABLE: y"]))  # type: ignore[arg-type]  # a part

    content = json.loads(response["body"])
    assert (response["statusCode"], content["code"]) == (500, "settings_invalid")
    assert all(problem in content["message"] for problem in ("QUEUE_URL: x", "FLOW_TABLE: y"))


def test_an_event_keeps_its_details_after_one_that_uses_up_the_values_of_the_request(endpoint: Endpoint) -> None:
    events = [track(properties={"customDetails": details}) for details in ([0] * 300_000, {"disks": [1, 2]})]

    answer = endpoint.post(events, queryStringParameters={"preview": "true"})

    first, second = (result["event"]["payload"]["custom_details"] for result in answer.content["results"])
    assert (first, second) == ({"note": "[left out: more values than are accepted]"}, {"disks": [1, 2]})


def test_an_event_that_no_time_is_left_to_post_is_enqueued(
    endpoint: Endpoint, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.DIRECT_LIMIT", 0.2)

    assert endpoint.post(track()).content["status"] == "queued"
    assert [line["reason"] for line in lines(log)] == ["deadline_exceeded"]


def test_the_garbage_collector_is_disabled_during_a_request(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        webhook, "answer", lambda *_, **__: {"statusCode": 200, "body": json.dumps({"gc": gc.isenabled()})}
    )

    assert endpoint.post(track()).content == {"gc": False}
    assert gc.isenabled()
    endpoint.post("{")
    assert gc.isenabled()


def test_each_event_has_one_line_in_the_log_by_which_it_can_be_found(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post([numbered(1), track(type="page"), numbered(2, action="close")])

    names = ("request_id", "pagerduty_service", "event_type", "code", "message_id", "dedup_key")
    assert [tuple(line.get(name) for name in names) for line in lines(log)] == [
        (LambdaContext.aws_request_id, "default", "trigger", "queued", "m-1", "incident-1"),
        (LambdaContext.aws_request_id, "default", "unknown", "not_a_track_call", "m-1", "disk-full"),
        (LambdaContext.aws_request_id, "default", "unknown", "action_unknown", "m-2", "incident-2"),
    ]


@pytest.mark.parametrize(
    "fault",
    [
        None,
        refusal(f"Invalid routing key {ROUTING_KEY}"),
        refusal(f"{'x' * 280} {ROUTING_KEY.upper()}"),
        Fault.answer(202, {"status": "success", "message": "m", "dedup_key": ROUTING_KEY}),
        Fault.answer(403, ROUTING_KEY),
    ],
    ids=["accepted", "refused key", "refused event", "202", "403"],
)
def test_no_secret_is_in_any_log_or_answer(endpoint: Endpoint, log: io.StringIO, fault: Fault | None) -> None:
    endpoint.sandbox.on_call = lambda _: fault
    answers = [
        endpoint.post(track()),
        endpoint.post([track(), 7, track(properties={"severity": "x"})]),
        endpoint.post(track(), queryStringParameters=PREVIEW),
        endpoint.post("{"),
        endpoint.post(track(), headers={"authorization": f"Bearer {WRONG_TOKEN}"}),
    ]

    text = f"{log.getvalue()}{answers}"
    assert "disk-full" in text
    assert [secret for secret in (TOKEN, ROUTING_KEY, WRONG_TOKEN) if secret in text] == []


def test_no_content_of_an_event_is_in_the_log(endpoint: Endpoint, log: io.StringIO) -> None:
    private = "private-thing"
    properties = {
        name: {"x": private} if name in {"customDetails", "group"} else private
        for name in ("customDetails", "group", "severity", "component", "client", "linkURLs", "imageURLs")
    }
    endpoint.post(track(event=private, properties=properties, context={"ip": private}))
    endpoint.post(track(event=private, properties={"action": private}))
    endpoint.post(track(type=private))

    assert len(lines(log)) == 3
    assert private not in log.getvalue()

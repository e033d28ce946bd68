"""The documents tell the truth: their tables, samples and queries are those of the code and of the template."""

import io
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import local.run
import mapping
from benchmarks import costs
from chaos.faults import Fault
from credentials import MISSING_TTL, TTL
from event import Event
from local import metrics
from local.pagerduty_rules import violations
from mapping import map_event
from outcome import CODES
from settings import Rules, Settings
from tests.infrastructure import insights
from tests.support import ROUTING_KEY, Clock, Endpoint, node_is_usable, track

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "template.yaml"
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
}
README, SECURITY = DOCUMENTS["README.md"], DOCUMENTS["SECURITY.md"]
ANSWERS, MAPPING, OPERATING, RUDDERSTACK = (
    DOCUMENTS[f"docs/{name}.md"] for name in ("answers", "mapping", "operating", "rudderstack")
)
NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(heading: str, document: str) -> str:
    """Cut out what is between this heading and the next one."""
    text = re.split(rf"^#+ {re.escape(heading)}$", document, flags=re.MULTILINE)[1]
    return re.split(r"^#+ ", text, flags=re.MULTILINE)[0]


def rows(heading: str, document: str) -> list[list[str]]:
    """Read the rows of all tables of a section."""
    lines = section(heading, document).splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if line.startswith("| ") and not line.startswith("| ---")
    ]


def blocks(language: str, document: str) -> list[str]:
    """List the blocks of code in a language."""
    return [text for name, text in BLOCK.findall(document) if name == language]


# -- tables ----------------------------------------------------------------------------------------------------------


def code_groups() -> dict[str, dict[str, str]]:
    """Read the groups of codes: the codes of each with their HTTP statuses, by the address of its section."""
    text = ANSWERS.partition("\n## Troubleshooting by code\n")[2].partition("\n## ")[0]
    return {
        anchor(title): {code: row[1] for row in rows(title, text)[1:] for code in re.findall(r"`([a-z0-9_]+)`", row[0])}
        for title in re.findall(r"^### (.+)$", text, flags=re.MULTILINE)
    }


def test_every_code_is_explained_once_with_its_status() -> None:
    explained = [each for group in code_groups().values() for each in group.items()]

    assert sorted(code for code, _ in explained) == sorted(CODES)
    assert [code for code, statuses in explained if statuses != "log" and str(CODES[code][1]) not in statuses] == []


def template() -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        """Reads CloudFormation's tags as nothing, but Fn::Sub, whose text it keeps."""

    Loader.add_multi_constructor("!", lambda *_: None)
    Loader.add_constructor("!Sub", lambda _, node: node.value)
    found: dict[str, Any] = yaml.load(TEMPLATE.read_text(), Loader)  # noqa: S506 -- a SafeLoader
    return found


def test_every_template_parameter_is_explained_with_its_default() -> None:
    explained = {
        name: row[2].strip("`")
        for row in rows("Template parameters", DOCUMENTS["docs/settings.md"])
        for name in re.findall(r"`([A-Z][A-Za-z]+)`", row[0])
    }

    assert explained == {name: str(parameter["Default"]) for name, parameter in template()["Parameters"].items()}


def alarms() -> dict[str, str]:
    """Read the alarms of the template: the name of each in a notification, by its logical ID."""
    return {
        name: entry["Properties"]["AlarmName"].replace("${AWS::StackName}", "STACK")
        for name, entry in template()["Resources"].items()
        if entry["Type"] == "AWS::CloudWatch::Alarm"
    }


class AlarmRow(NamedTuple):
    """What the runbook says about an alarm."""

    name: str
    minutes: str
    text: str


def runbook() -> dict[str, AlarmRow]:
    """Read the runbook: the row of each alarm, by its logical ID."""
    found = {}
    for alarm, _, minutes, text in rows("Runbook", OPERATING)[1:]:
        name, logical_id = re.findall(r"`([\w-]+)`", alarm)
        found[logical_id] = AlarmRow(name, minutes, text)
    return found


def test_every_alarm_is_in_the_runbook_under_the_name_of_its_notification() -> None:
    assert {logical_id: row.name for logical_id, row in runbook().items()} == alarms()


@pytest.mark.parametrize(
    ("result", "names"),
    [("deferred", ["DeferredAlarm"]), ("rejected", ["EventsRefusedAlarm", "UnauthorizedAlarm"])],
)
def test_the_runbook_leads_to_every_code_that_can_be_behind_an_alarm(result: str, names: list[str]) -> None:
    groups = code_groups()
    linked = re.findall(r"\(answers\.md#([a-z-]+)\)", " ".join(runbook()[name].text for name in names))

    assert {code for code, (its_result, _) in CODES.items() if its_result == result} <= {
        code for group in linked for code in groups[group]
    }


def test_the_runbook_says_after_how_many_minutes_an_alarm_goes_off() -> None:
    """At the soonest: the periods before the last one, the age that it looks for, and a minute for CloudWatch."""
    ages = {"QueueAgeAlarm": 600, "QueueUnreadAlarm": 600}
    properties = {
        name: entry["Properties"]
        for name, entry in template()["Resources"].items()
        if entry["Type"] == "AWS::CloudWatch::Alarm" and name != "NoDeliveryAlarm"
    }

    assert {name: int(re.split(r"\D", runbook()[name].minutes)[0]) for name in properties} == {
        name: ((alarm.get("DatapointsToAlarm", 1) - 1) * alarm["Period"] + ages.get(name, 0)) // 60 + 1
        for name, alarm in properties.items()
    }


def test_every_permission_is_explained() -> None:
    allowed = set(re.findall(r"Sid: (\w+)", TEMPLATE.read_text()))

    assert {row[1].strip("`") for row in rows("What each function may do", SECURITY)} - {"statement"} == allowed


def test_every_metric_of_the_dashboard_is_explained() -> None:
    shown = set(re.findall(r'\["RudderStackPagerDuty", "(\w+)"', TEMPLATE.read_text()))
    explained = {name for row in rows("Log and metrics", OPERATING) for name in re.findall(r"`([A-Z]\w+)`", row[0])}

    assert explained == shown


# -- links -----------------------------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """Write a heading as GitHub does in the address of its section."""
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


def links() -> Iterator[tuple[str, str]]:
    """List the links between the documents: the document that has each, and what it leads to from the root."""
    for name, text in DOCUMENTS.items():
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", BLOCK.sub("", text)):
            path, _, fragment = target.partition("#")
            found = ((ROOT / name).parent / path).resolve().relative_to(ROOT) if path else Path(name)
            yield name, f"{found}#{fragment}" if fragment else str(found)


def test_every_link_between_the_documents_leads_somewhere() -> None:
    sections = {
        f"{name}#{anchor(heading)}"
        for name, text in DOCUMENTS.items()
        for heading in re.findall(r"^#+ (.+)$", BLOCK.sub("", text), flags=re.MULTILINE)
    }

    assert [
        (name, target)
        for name, target in links()
        if target not in sections and not ("#" not in target and (ROOT / target).exists())
    ] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    linked = {target.partition("#")[0] for name, target in links() if name == "README.md"}

    assert set(DOCUMENTS) - {"README.md"} <= linked


# -- make run --------------------------------------------------------------------------------------------------------


def test_the_table_of_make_run_is_what_make_run_prints() -> None:
    shown = re.findall(r"^([a-z0-9-]+\.json) ", README, flags=re.MULTILINE)

    assert shown == list(local.run.EXPECTED)


@pytest.mark.parametrize("name", sorted(local.run.EXPECTED))
def test_no_event_file_has_a_timestamp_that_would_grow_too_old(name: str) -> None:
    body = local.run.read_event(local.run.EVENTS / name)["body"]

    assert not re.search(r"timestamp|sentAt|receivedAt", body, flags=re.IGNORECASE)


def test_every_event_file_is_expected_to_turn_out_somehow() -> None:
    assert sorted(file.name for file in local.run.EVENTS.glob("*.json")) == sorted(local.run.EXPECTED)


# -- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "kind", "action"),
    [
        ("Trigger", "alert", "trigger"),
        ("Acknowledge", "alert", "acknowledge"),
        ("Resolve", "alert", "resolve"),
        ("Change event", "change", None),
    ],
)
def test_each_sample_becomes_the_event_that_its_heading_says(heading: str, kind: str, action: str | None) -> None:
    (sample,) = blocks("json", section(heading, RUDDERSTACK))
    mapped = map_event(json.loads(sample), "default", Rules(), NOW, "fallback-key")

    assert isinstance(mapped, Event)
    assert (mapped.kind, mapped.action, mapped.warnings) == (kind, action, ())


def examples(heading: str) -> list[tuple[str, str]]:
    """List the examples of a setting: its value, and what comes of it."""
    return [(row[0].strip("`"), row[1].strip("`")) for row in rows(heading, MAPPING)[1:]]


def mapped_by(variable: str, value: str) -> Event:
    """Map the sample of the page on the mapping with one setting."""
    (sample,) = blocks("json", MAPPING)
    needed = dict.fromkeys(("QUEUE_URL", "DEAD_LETTER_QUEUE_URL", "FLOW_TABLE"), "set")
    rules = Settings.from_environment(needed | {variable: value}).rules
    mapped = map_event(json.loads(sample), "of-the-url", rules, NOW, "no-key")
    assert isinstance(mapped, Event)
    return mapped


@pytest.mark.parametrize(("template", "summary"), examples("A summary that says what happened"))
def test_each_summary_of_the_examples_comes_out(template: str, summary: str) -> None:
    assert mapped_by("SUMMARY_TEMPLATE", template).content["payload"]["summary"] == summary


@pytest.mark.parametrize(("field", "key"), examples("A dedup key out of several values"))
def test_each_dedup_key_of_the_examples_comes_out(field: str, key: str) -> None:
    assert mapped_by("DEDUP_KEY_FIELD", field).dedup_key == key.replace("none", "no-key")


@pytest.mark.parametrize(("field", "service"), examples("The service from the event"))
def test_each_service_of_the_examples_comes_out(field: str, service: str) -> None:
    mapped = mapped_by("SERVICE_FIELD", field)
    warned = any(warning.startswith(f"{field}: ") for warning in mapped.warnings)

    assert (mapped.service, warned) == (
        ("of-the-url", True) if service == "the one of the URL, with a warning" else (service, False)
    )


@pytest.mark.parametrize(("paths", "details"), examples("What responders need to see"))
def test_the_extra_details_of_each_example_come_out(paths: str, details: str) -> None:
    found = mapped_by("EXTRA_DETAILS", paths).content["payload"].get("custom_details")

    assert found == (None if details == "none" else json.loads(details))


@pytest.mark.parametrize(("severity", "words"), [(row[0], row[1]) for row in rows("Severities", MAPPING)[1:]])
def test_every_word_for_a_severity_is_in_the_table_and_means_what_the_table_says(severity: str, words: str) -> None:
    expected = {name for name, known in mapping.OTHER_SEVERITIES.items() if f"`{known}`" == severity}

    assert set(re.findall(r"`(\w+)`", words)) == expected


def test_the_event_that_pages_by_hand_is_one_that_pagerduty_takes() -> None:
    (script,) = blocks("bash", section("Page by hand", OPERATING))
    event = script.partition("<<EOF\n")[2].partition("EOF\n")[0].replace("$ROUTING_KEY", "0" * 32)

    assert violations("alert", event.encode())[1] == ()


def test_what_is_sent_again_by_hand_pages() -> None:
    (script,) = blocks("bash", section("Send the events again", OPERATING))
    (event,) = re.findall(r"-d '(.+)'", script)
    mapped = map_event(json.loads(event), "default", Rules(), NOW, "fallback-key")

    assert isinstance(mapped, Event)
    assert (mapped.action, mapped.dedup_key) == ("trigger", "db-1/disk")


def test_the_lease_that_is_written_before_a_redrive_sends_later_events_through_the_queue(endpoint: Endpoint) -> None:
    (script,) = blocks("bash", section("Redrive", DOCUMENTS["docs/queue.md"]))
    arguments = shlex.split(
        script.partition("aws sqs")[0].replace("\\\n", " ").replace("$(($(date +%s) + 3600))", "1e11")
    )
    options = dict(zip(arguments[3::2], arguments[4::2], strict=True))

    endpoint.aws.client("dynamodb").update_item(
        TableName=endpoint.deps.settings.flow_table,
        Key=json.loads(options["--key"]),
        UpdateExpression=options["--update-expression"],
        ConditionExpression=options["--condition-expression"],
        ExpressionAttributeValues=json.loads(options["--expression-attribute-values"]),
    )

    assert endpoint.post(track()).content["code"] == "queued"


# Without Node there is nothing to run JavaScript with; the run then says so at its end.
if node_is_usable():

    def javascript(code: str) -> Any:
        """Run JavaScript as a module; return what it prints as JSON."""
        done = subprocess.run(  # noqa: S603 -- code of our own documents
            ["node", "--input-type=module", "-e", code],  # noqa: S607 -- any node
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return json.loads(done.stdout)

    def transformed(code: str, *events: dict[str, Any]) -> list[Any]:
        """Call a transformation for each event, as RudderStack does; None for what it does not let through."""
        show = f"console.log(JSON.stringify({json.dumps(events)}.map((event) => transformEvent(event) ?? null)));"
        found: list[Any] = javascript(code.replace("export ", "") + show)
        return found

    @pytest.mark.parametrize("heading", ["Trigger", "Acknowledge", "Resolve", "Change event"])
    def test_the_javascript_of_a_sample_says_the_same_as_its_json(heading: str) -> None:
        (sample,) = blocks("json", section(heading, RUDDERSTACK))
        (call,) = blocks("javascript", section(heading, RUDDERSTACK))
        sdk = (
            "const rudderanalytics = { track: (event, properties, options = {}) =>"
            ' console.log(JSON.stringify({ type: "track", event, properties, ...options })) };\n'
        )

        assert javascript(sdk + call) == json.loads(sample)

    @pytest.mark.parametrize("document", ["README.md", "docs/rudderstack.md"])
    def test_the_transformation_lets_only_the_chosen_track_calls_through(document: str) -> None:
        chosen, other = track(), track(event="Page viewed")
        identify = {"type": "identify", "event": "Disk is full"}
        code = next(text for text in blocks("javascript", DOCUMENTS[document]) if "FOR_PAGERDUTY" in text)

        assert transformed(code, chosen, other, identify) == [chosen, None, None]

    def test_the_transformation_for_reverse_etl_makes_change_events() -> None:
        (code,) = blocks("javascript", section("Reverse ETL", RUDDERSTACK))
        (event,) = transformed(code, track(integrations={"All": True}))
        mapped = map_event(event, "default", Rules(), NOW, "fallback-key")

        assert isinstance(mapped, Event)
        assert (mapped.kind, event["integrations"]["All"]) == ("change", True)

    def test_the_transformation_for_public_sources_removes_what_changes_the_request() -> None:
        (code,) = blocks("javascript", SECURITY)
        harm = {"fullPath": "https://example.com", "appendPath": "/billing", "header": {"a": "b"}}
        event = track(**harm, integrations={"All": True, "Webhook": dict(harm), "webhook": None})

        assert transformed(code, event) == [track(integrations={"All": True, "Webhook": {}, "webhook": None})]


# -- queries ---------------------------------------------------------------------------------------------------------


def lines(log: io.StringIO) -> list[insights.Line]:
    """Read the log of both functions, each line with the time at which CloudWatch would have had it, in their order."""
    found = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line | {"@timestamp": f"{number:04}"} for number, line in enumerate(found)]


def queries(heading: str) -> list[str]:
    return [text for text in blocks("text", section(heading, OPERATING)) if text.startswith("filter")]


def test_the_query_finds_who_was_not_paged(make_endpoint: Callable[..., Endpoint], log: io.StringIO) -> None:
    clock = Clock()
    endpoint = make_endpoint(clock=clock)
    names = ("late", "lost", "twice", "waiting", "arrived", "buried")
    late, lost, twice, waiting, arrived, buried = (
        track(messageId=name, properties={"dedupKey": name}) for name in names
    )
    endpoint.post(track(messageId="refused", properties={"action": "resolved"}))
    # A service whose routing key is missing at first, and again later.
    endpoint.post(late, "/events/other")
    endpoint.post(lost, "/events/other")
    endpoint.put("routing-keys/other", ROUTING_KEY)
    clock.now += MISSING_TTL
    endpoint.post(late, "/events/other")
    # RudderStack did not hear of the delivery, and sends the event again when it cannot be delivered.
    endpoint.post(twice, "/events/other")
    endpoint.delete("routing-keys/other")
    clock.now += TTL
    endpoint.post(twice, "/events/other")
    endpoint.post([waiting, arrived, buried])
    answers = {"waiting": 429, "buried": 400}
    endpoint.sandbox.on_call = lambda call: (
        Fault.answer(answers[call.event["dedup_key"]]) if call.event["dedup_key"] in answers else None
    )
    endpoint.work()
    endpoint.post({"type": "identify", "messageId": "ignored"})
    query, _ = queries("Who was not paged")
    found = insights.run(query, lines(log))

    assert {row["message_id"]: (row["last"], row["reason"], row["queued"]) for row in found} == {
        "refused": ("rejected", "action_unknown", 0),
        "lost": ("deferred", "routing_key_missing", 0),
        "waiting": ("deferred", "pagerduty_rate_limited", 1),
        "buried": ("rejected", "pagerduty_rejected", 1),
    }
    assert [row["message_id"] for row in found] == ["buried", "waiting", "lost", "refused"]
    assert found[2]["incident"] == "lost"


def test_the_other_query_counts_what_has_no_message_id(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post(track(), headers={"authorization": "Bearer of-somebody-else"})
    endpoint.post("not JSON")
    endpoint.post("not JSON")
    _, query = queries("Who was not paged")

    assert insights.run(query, lines(log)) == [
        {"status": "rejected", "code": "body_not_json", "lines": 2},
        {"status": "rejected", "code": "unauthorized", "lines": 1},
    ]


def test_the_query_for_failed_invocations_finds_a_timeout() -> None:
    reports = [
        {"@timestamp": str(number), "type": "platform.report", "record": {"status": status}}
        for number, status in enumerate(["success", "timeout", "error"])
    ]
    (query,) = queries("Failed invocations")

    assert [row["record"]["status"] for row in insights.run(query, [*reports, {"@timestamp": "9", "type": "x"}])] == [
        "error",
        "timeout",
    ]


def test_the_query_counts_why_events_are_queued(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post([track(messageId="1"), track(messageId="2")])
    endpoint.post(track(messageId="3"))
    (query,) = queries("Why events are queued")

    assert insights.run(query, lines(log)) == [
        {"pagerduty_service": "default", "reason": "several_events", "events": 2, "without_lease": 0},
        {"pagerduty_service": "default", "reason": "earlier_events_queued", "events": 1, "without_lease": 0},
    ]


def test_an_event_is_found_by_its_dedup_key(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post(track(messageId="another", properties={"dedupKey": "another"}))
    endpoint.post(track())
    (query,) = queries("Find an event")

    found = insights.run(query.replace("...", "disk-full"), lines(log))

    assert [line["message_id"] for line in found] == ["m-1"]


# -- costs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "table"), [("part", costs.monthly()), ("case", costs.changes())])
def test_the_tables_of_costs_are_those_that_the_script_prints(header: str, table: list[costs.Row]) -> None:
    assert costs.table(header, table) in section("What it costs", OPERATING)


def test_the_costs_count_every_alarm() -> None:
    assert len(alarms()) == costs.ALARMS


def metrics_of(log: io.StringIO) -> list[tuple[str, tuple[str, ...]]]:
    """List the metrics that have a value in the log, each once: its name, and what it is a metric of."""
    found = metrics.read_all(log.getvalue().splitlines())
    return sorted({(metric.name, tuple(value for _, value in metric.dimensions[1:])) for metric in found})


LIFE = [
    track(messageId="1", originalTimestamp="2999-01-01T00:00:00Z"),
    track(messageId="2", properties={"action": "acknowledge"}),
    track(messageId="3", properties={"action": "resolve"}),
    track(
        messageId="4",
        originalTimestamp="2999-01-01T00:00:00Z",
        integrations={"pagerduty": {"type": "changeEvent"}},
    ),
]


@pytest.mark.parametrize(
    ("sent", "of_stack", "of_service"),
    [
        (LIFE, costs.STACK_METRICS, costs.SERVICE_METRICS),
        (
            [[event] for event in LIFE],
            costs.STACK_METRICS + costs.STACK_METRICS_OF_QUEUE,
            costs.SERVICE_METRICS + costs.SERVICE_METRICS_OF_QUEUE,
        ),
    ],
    ids=["at once", "through the queue"],
)
def test_the_costs_count_the_metrics_of_a_day_without_trouble(
    endpoint: Endpoint, log: io.StringIO, sent: list[Any], of_stack: int, of_service: int
) -> None:
    for content in sent:
        endpoint.post(content)
    while records := endpoint.received(endpoint.deps.settings.queue_url):
        endpoint.work(records)
    found = [len(place) > 0 for _, place in metrics_of(log)]

    assert (found.count(False), found.count(True)) == (of_stack, of_service)


def test_the_costs_know_how_long_a_line_is(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post(local.run.read_event(local.run.EVENTS / "alert-1-trigger.json")["body"])
    endpoint.post(track(), headers={})
    event, refusal = (len(line) for line in log.getvalue().splitlines())

    assert 0.9 * costs.EVENT_LINE < event <= 1.02 * costs.EVENT_LINE
    assert 0.9 * costs.REFUSAL_LINE < refusal <= 1.02 * costs.REFUSAL_LINE

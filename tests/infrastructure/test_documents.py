"""The documents say what the code and the template do: their tables, samples and links."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

import local.run
import mapping
from benchmarks import costs
from event import Event
from local.pagerduty_rules import violations
from mapping import Context, map_event
from outcome import CODES
from settings import Rules, Settings
from tests.infrastructure.stack import ROOT, TEMPLATE, of_type, written
from tests.support import Endpoint, node_is_usable, track

DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
}
ANSWERS, MAPPING, OPERATING, RUDDERSTACK = (
    DOCUMENTS[f"docs/{name}.md"] for name in ("answers", "mapping", "operating", "rudderstack")
)
NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(heading: str, document: str) -> str:
    """Return what is between this heading and the next one."""
    text = re.split(rf"^#+ {re.escape(heading)}$", document, flags=re.MULTILINE)[1]
    return re.split(r"^#+ ", text, flags=re.MULTILINE)[0]


def rows(heading: str, document: str) -> list[list[str]]:
    """Return the rows of the tables of a section, without the first one's header."""
    lines = [line for line in section(heading, document).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if "| ---" not in line][1:]


def blocks(language: str, document: str) -> list[str]:
    return [text for name, text in BLOCK.findall(document) if name == language]


# -- Tables ----------------------------------------------------------------------------------------------------------


def test_every_code_is_explained_once_with_its_status() -> None:
    text = ANSWERS.partition("\n## Troubleshooting by code\n")[2].partition("\n## ")[0]
    explained = [
        (code, row[1])
        for title in re.findall(r"^### (.+)$", text, flags=re.MULTILINE)
        for row in rows(title, text)
        for code in re.findall(r"`([a-z0-9_]+)`", row[0])
    ]

    assert sorted(code for code, _ in explained) == sorted(CODES)
    assert [code for code, statuses in explained if statuses != "log" and str(CODES[code][1]) not in statuses] == []


def test_every_template_parameter_is_explained_with_its_default() -> None:
    explained = {
        name: row[2].strip("`")
        for row in rows("Template parameters", DOCUMENTS["docs/settings.md"])
        for name in re.findall(r"`([A-Z][A-Za-z]+)`", row[0])
    }

    assert explained == {name: str(parameter["Default"]) for name, parameter in written()["Parameters"].items()}


def test_every_permission_is_explained() -> None:
    explained = {row[1].strip("`") for row in rows("What each function may do", DOCUMENTS["SECURITY.md"])}

    assert explained - {"statement"} == set(re.findall(r"Sid: (\w+)", TEMPLATE.read_text(encoding="utf-8")))


def test_every_metric_of_the_dashboard_is_explained() -> None:
    explained = {name for row in rows("Log and metrics", OPERATING) for name in re.findall(r"`([A-Z]\w+)`", row[0])}
    dashboard = of_type("AWS::CloudWatch::Dashboard")["Dashboard"]["DashboardBody"]

    assert explained == set(re.findall(r'\["RudderStackPagerDuty", "(\w+)"', dashboard))


def test_every_severity_word_of_the_table_has_the_meaning_that_the_table_says() -> None:
    explained = {
        word: row[0].strip("`") for row in rows("Severities", MAPPING) for word in re.findall(r"`(\w+)`", row[1])
    }

    assert explained == mapping.OTHER_SEVERITIES


@pytest.mark.parametrize(("header", "table"), [("part", costs.monthly()), ("case", costs.changes())])
def test_the_tables_of_costs_are_those_that_the_script_prints(header: str, table: list[costs.Row]) -> None:
    assert costs.table(header, table) in section("What it costs", OPERATING)


# -- The runbook -----------------------------------------------------------------------------------------------------


def alarms() -> dict[str, dict[str, Any]]:
    return of_type("AWS::CloudWatch::Alarm", NoDeliveryAlarmHours="24")


def runbook() -> dict[str, list[str]]:
    """Return the row of each alarm by its logical ID, with its name in the place of the first cell."""
    found = {}
    for alarm, *cells in rows("Runbook", OPERATING):
        name, logical_id = re.findall(r"`([\w-]+)`", alarm)
        found[logical_id] = [name.replace("STACK", "stack"), *cells]
    return found


def test_every_alarm_is_in_the_runbook_under_its_name() -> None:
    assert {logical_id: row[0] for logical_id, row in runbook().items()} == {
        logical_id: alarm["AlarmName"] for logical_id, alarm in alarms().items()
    }
    assert len(alarms()) == costs.ALARMS


def test_the_runbook_says_after_how_many_minutes_an_alarm_goes_off() -> None:
    """At the soonest: the periods before the last one, the age that it looks for, and a minute for CloudWatch."""
    ages = {"QueueAgeAlarm": 600, "QueueUnreadAlarm": 600}
    minutes = {name: int(re.split(r"\D", row[2])[0]) for name, row in runbook().items() if name != "NoDeliveryAlarm"}

    assert minutes == {
        name: ((alarm.get("DatapointsToAlarm", 1) - 1) * alarm["Period"] + ages.get(name, 0)) // 60 + 1
        for name, alarm in alarms().items()
        if name != "NoDeliveryAlarm"
    }


# -- Links -----------------------------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """Return the address that GitHub gives to a section."""
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


def links() -> Iterator[tuple[str, str]]:
    """List the links between the documents: the document that has each, and its target from the root."""
    for name, text in DOCUMENTS.items():
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", BLOCK.sub("", text)):
            path, _, fragment = target.partition("#")
            found = ((ROOT / name).parent / path).resolve().relative_to(ROOT) if path else name
            yield name, f"{found}#{fragment}" if fragment else str(found)


def test_every_link_between_the_documents_leads_somewhere() -> None:
    sections = {
        f"{name}#{anchor(heading)}"
        for name, text in DOCUMENTS.items()
        for heading in re.findall(r"^#+ (.+)$", BLOCK.sub("", text), flags=re.MULTILINE)
    }
    broken = [(name, target) for name, target in links() if target not in sections]

    assert [(name, target) for name, target in broken if "#" in target or not (ROOT / target).exists()] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    linked = {target.partition("#")[0] for name, target in links() if name == "README.md"}

    assert set(DOCUMENTS) - linked == {"README.md"}


# -- Samples ---------------------------------------------------------------------------------------------------------


def test_make_run_the_readme_and_the_folder_have_the_same_event_files() -> None:
    in_the_readme = re.findall(r"^([a-z0-9-]+\.json) ", DOCUMENTS["README.md"], flags=re.MULTILINE)

    assert in_the_readme == list(local.run.EXPECTED)
    assert sorted(in_the_readme) == sorted(file.name for file in local.run.EVENTS.glob("*.json"))


@pytest.mark.parametrize("name", sorted(local.run.EXPECTED))
def test_no_event_file_has_a_timestamp_that_grows_too_old(name: str) -> None:
    body = local.run.read_event(local.run.EVENTS / name)["body"]

    assert re.findall(r"timestamp|sentAt|receivedAt", body, flags=re.IGNORECASE) == []


@pytest.mark.parametrize(
    ("heading", "type_name"),
    [("Trigger", "trigger"), ("Acknowledge", "acknowledge"), ("Resolve", "resolve"), ("Change event", "change")],
)
def test_each_sample_becomes_the_event_of_its_heading(heading: str, type_name: str) -> None:
    (sample,) = blocks("json", section(heading, RUDDERSTACK))
    mapped = map_event(json.loads(sample), Rules(), Context("default", NOW, "fallback-key"))

    assert isinstance(mapped, Event)
    assert (mapped.type_name, mapped.warnings) == (type_name, ())


def custom_details(event: Event) -> object:
    return event.content["payload"].get("custom_details", "none")


@pytest.mark.parametrize(
    ("heading", "variable", "shown"),
    [
        (
            "A summary that says what happened",
            "SUMMARY_TEMPLATE",
            lambda event: event.content["payload"]["summary"],
        ),
        ("A dedup key out of several values", "DEDUP_KEY_FIELD", lambda event: event.dedup_key),
        ("The service from the event", "SERVICE_FIELD", lambda event: event.service),
        ("What responders need to see", "EXTRA_DETAILS", custom_details),
    ],
)
def test_the_examples_of_a_setting_come_out(heading: str, variable: str, shown: Callable[[Event], object]) -> None:
    (sample,) = blocks("json", MAPPING)
    needed = dict.fromkeys(("QUEUE_URL", "DEAD_LETTER_QUEUE_URL", "FLOW_TABLE"), "set")
    for value, expected in rows(heading, MAPPING):
        rules = Settings.from_environment(needed | {variable: value.strip("`")}).rules
        event = map_event(json.loads(sample), rules, Context("the one of the URL, with a warning", NOW, "none"))

        assert isinstance(event, Event)
        text = expected.strip("`")
        assert shown(event) == (json.loads(text) if text.startswith("{") else text)


def test_the_commands_that_page_by_hand_and_send_again_are_accepted() -> None:
    (page,) = blocks("bash", section("Page by hand", OPERATING))
    event = page.partition("<<EOF\n")[2].partition("EOF\n")[0].replace("$ROUTING_KEY", "0" * 32)
    (again,) = re.findall(r"-d '(.+)'", section("Send the events again", OPERATING))
    mapped = map_event(json.loads(again), Rules(), Context("default", NOW, "fallback-key"))

    assert violations("alert", event.encode())[1] == ()
    assert isinstance(mapped, Event)
    assert (mapped.action, mapped.dedup_key) == ("trigger", "db-1/disk")


def test_the_lease_of_the_redrive_sends_later_events_through_the_queue(endpoint: Endpoint) -> None:
    (script,) = blocks("bash", section("Redrive", DOCUMENTS["docs/queue.md"]))
    command = script.partition("aws sqs")[0].replace("\\\n", " ").replace("$(($(date +%s) + 3600))", "1e11")
    arguments = shlex.split(command)
    options = dict(zip(arguments[3::2], arguments[4::2], strict=True))

    endpoint.aws.client("dynamodb").update_item(
        TableName=endpoint.deps.settings.flow_table,
        Key=json.loads(options["--key"]),
        UpdateExpression=options["--update-expression"],
        ConditionExpression=options["--condition-expression"],
        ExpressionAttributeValues=json.loads(options["--expression-attribute-values"]),
    )

    assert endpoint.post(track()).content["code"] == "queued"


# The run says at its end when there is no Node.
if node_is_usable():
    OTHERS = [track(event="Page viewed"), {"type": "identify", "event": "Disk is full"}]
    HARM = {"fullPath": "https://example.com", "appendPath": "/billing", "header": {"a": "b"}}
    HARMFUL = track(**HARM, integrations={"All": True, "Webhook": HARM, "webhook": None})
    HARMLESS = track(integrations={"All": True, "Webhook": {}, "webhook": None})
    CHANGE = track(integrations={"All": True, "pagerduty": {"type": "changeEvent"}})

    @pytest.mark.parametrize(
        ("document", "word", "events", "expected"),
        [
            ("README.md", "FOR_PAGERDUTY", [track(), *OTHERS], [track(), None, None]),
            ("docs/rudderstack.md", "FOR_PAGERDUTY", [track(), *OTHERS], [track(), None, None]),
            ("docs/rudderstack.md", "changeEvent", [track(integrations={"All": True})], [CHANGE]),
            ("SECURITY.md", "appendPath", [HARMFUL], [HARMLESS]),
        ],
    )
    def test_each_transformation_returns_what_its_page_says(
        document: str, word: str, events: list[Any], expected: list[Any]
    ) -> None:
        code = next(
            text for text in blocks("javascript", DOCUMENTS[document]) if word in text and "transformEvent" in text
        )
        show = f"console.log(JSON.stringify({json.dumps(events)}.map((event) => transformEvent(event) ?? null)));"
        command = ["node", "--input-type=module", "-e", code + show]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 -- code of our documents

        assert json.loads(done.stdout) == expected

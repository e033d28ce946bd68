"""The documents say what the code and the template do: their tables, samples and links."""

import json
import re
import shlex
import subprocess
from datetime import UTC, datetime
from typing import Any

import pytest

import local.run
import mapping
from event import Event
from local.options import ROOT
from local.pagerduty_rules import violations
from mapping import Context, map_event
from outcome import CODES
from settings import Rules
from tests.infrastructure.stack import of_type, written
from tests.support import Endpoint, node_is_usable, track

DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
}
OPERATING = DOCUMENTS["docs/operating.md"]
CONTEXT = Context("default", datetime(2026, 6, 30, 12, tzinfo=UTC), "fallback-key")
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


def test_every_code_is_explained_once_with_its_status() -> None:
    text = DOCUMENTS["docs/answers.md"].partition("\n## Troubleshooting by code\n")[2].partition("\n## ")[0]
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
    template = (ROOT / "template.yaml").read_text(encoding="utf-8")
    explained = {row[1].strip("`") for row in rows("What each function may do", DOCUMENTS["SECURITY.md"])}

    assert explained - {"statement"} == set(re.findall(r"Sid: (\w+)", template))


def test_every_metric_of_the_dashboard_is_explained() -> None:
    explained = {name for row in rows("Log and metrics", OPERATING) for name in re.findall(r"`([A-Z]\w+)`", row[0])}
    dashboard = of_type("AWS::CloudWatch::Dashboard")["Dashboard"]["DashboardBody"]

    assert explained == set(re.findall(r'\["RudderStackPagerDuty", "(\w+)"', dashboard))


def test_every_severity_word_of_the_table_has_the_meaning_that_the_table_says() -> None:
    explained = {
        word: row[0].strip("`")
        for row in rows("Severities", DOCUMENTS["docs/mapping.md"])
        for word in re.findall(r"`(\w+)`", row[1])
    }

    assert explained == mapping.OTHER_SEVERITIES


def test_every_alarm_is_in_the_runbook_under_its_name() -> None:
    alarms = of_type("AWS::CloudWatch::Alarm", NoDeliveryAlarmHours="24")
    explained = dict(re.findall(r"`([\w-]+)`", row[0])[::-1] for row in rows("Runbook", OPERATING))

    assert explained == {name: alarm["AlarmName"].replace("stack", "STACK", 1) for name, alarm in alarms.items()}


def anchor(heading: str) -> str:
    """Return the address that GitHub gives to a section."""
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


def test_every_link_between_the_documents_leads_somewhere() -> None:
    texts = {name: BLOCK.sub("", text) for name, text in DOCUMENTS.items()}
    sections = {
        f"{name}#{anchor(heading)}"
        for name, text in texts.items()
        for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    }
    broken = []
    for name, text in texts.items():
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, fragment = target.partition("#")
            found = ((ROOT / name).parent / path).resolve().relative_to(ROOT) if path else name
            if not (f"{found}#{fragment}" in sections if fragment else (ROOT / found).exists()):
                broken.append((name, target))

    assert broken == []


def test_make_run_the_readme_and_the_folder_have_the_same_event_files() -> None:
    in_the_readme = re.findall(r"^([a-z0-9-]+\.json) ", DOCUMENTS["README.md"], flags=re.MULTILINE)

    assert in_the_readme == list(local.run.EXPECTED)
    assert sorted(in_the_readme) == sorted(file.name for file in local.run.EVENTS.glob("*.json"))


@pytest.mark.parametrize(
    ("heading", "type_name"),
    [("Trigger", "trigger"), ("Acknowledge", "acknowledge"), ("Resolve", "resolve"), ("Change event", "change")],
)
def test_each_sample_becomes_the_event_of_its_heading(heading: str, type_name: str) -> None:
    (sample,) = blocks("json", section(heading, DOCUMENTS["docs/rudderstack.md"]))
    mapped = map_event(json.loads(sample), Rules(), CONTEXT)

    assert isinstance(mapped, Event)
    assert (mapped.type_name, mapped.warnings) == (type_name, ())


def test_the_commands_that_page_by_hand_and_send_again_are_accepted() -> None:
    (page,) = blocks("bash", section("Page by hand", OPERATING))
    event = page.partition("<<EOF\n")[2].partition("EOF\n")[0].replace("$ROUTING_KEY", "0" * 32)
    (again,) = re.findall(r"-d '(.+)'", section("Send the events again", OPERATING))
    mapped = map_event(json.loads(again), Rules(), CONTEXT)

    assert violations("alert", event.encode())[1] == ()
    assert isinstance(mapped, Event)
    assert (mapped.action, mapped.dedup_key) == ("trigger", "db-1/disk")


def test_the_lease_that_is_written_by_hand_sends_later_events_through_the_queue(endpoint: Endpoint) -> None:
    (script,) = blocks("bash", section("Create the stack again", DOCUMENTS["docs/production.md"]))
    command = script.replace("\\\n", " ").replace("$(($(date +%s) + 3600))", "1e11")
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

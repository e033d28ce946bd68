"""The README tells the truth: its tables are those of the code and of the template."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import local.run
from outcome import CODES

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "template.yaml"
README = (ROOT / "README.md").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()


def rows(section: str, document: str = README) -> list[list[str]]:
    """Read the rows of all tables between this heading and the next one."""
    text = re.split(rf"^#+ {re.escape(section)}$", document, flags=re.MULTILINE)[1]
    text = re.split(r"^#+ ", text, flags=re.MULTILINE)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_code_is_explained_with_its_status() -> None:
    explained = {
        code: row[1] for row in rows("Troubleshooting by code") for code in re.findall(r"`([a-z0-9_]+)`", row[0])
    }

    assert sorted(explained) == sorted(CODES)
    assert {code for code, statuses in explained.items() if str(CODES[code][1]) not in statuses} == set()


def template() -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        """Reads CloudFormation's tags as nothing."""

    Loader.add_multi_constructor("!", lambda *_: None)
    found: dict[str, Any] = yaml.load(TEMPLATE.read_text(), Loader)  # noqa: S506 -- a SafeLoader
    return found


def test_every_template_parameter_is_explained_with_its_default() -> None:
    explained = {
        name: row[2].strip("`") for row in rows("Settings") for name in re.findall(r"`([A-Z][A-Za-z]+)`", row[0])
    }

    assert explained == {name: str(parameter["Default"]) for name, parameter in template()["Parameters"].items()}


def test_every_alarm_is_in_the_runbook() -> None:
    alarms = {name for name, entry in template()["Resources"].items() if entry["Type"] == "AWS::CloudWatch::Alarm"}

    assert {name for row in rows("Runbook") for name in re.findall(r"`(\w+Alarm)`", row[0])} == alarms


def test_every_permission_is_explained() -> None:
    allowed = set(re.findall(r"Sid: (\w+)", TEMPLATE.read_text()))

    assert {row[1].strip("`") for row in rows("What each function may do", SECURITY)} - {"statement"} == allowed


def test_every_link_between_the_documents_leads_somewhere() -> None:
    documents = {"README.md": README, "SECURITY.md": SECURITY}
    headings = {
        f"{name}#{re.sub(r'[^a-z0-9 -]', '', heading.lower()).replace(' ', '-')}"
        for name, text in documents.items()
        for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    }
    targets = {
        target if target.partition("#")[0] else name + target
        for name, text in documents.items()
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text)
    }

    assert {target for target in targets if "#" in target} - headings == set()
    assert [target for target in targets if not (ROOT / target.partition("#")[0]).exists()] == []


def test_every_metric_of_the_dashboard_is_explained() -> None:
    shown = set(re.findall(r'\["RudderStackPagerDuty", "(\w+)"', TEMPLATE.read_text()))

    assert {name for row in rows("Log and metrics") for name in re.findall(r"`([A-Z]\w+)`", row[0])} == shown


def test_the_table_of_make_run_is_what_make_run_prints() -> None:
    shown = re.findall(r"^    ([a-z0-9-]+\.json) ", README, flags=re.MULTILINE)

    assert shown == sorted(local.run.EXPECTED)


@pytest.mark.parametrize("name", sorted(local.run.EXPECTED))
def test_no_event_file_has_a_timestamp_that_would_grow_too_old(name: str) -> None:
    body = local.run.read_event(local.run.EVENTS / name)["body"]

    assert not re.search(r"timestamp|sentAt|receivedAt", body, flags=re.IGNORECASE)


def test_every_event_file_is_expected_to_turn_out_somehow() -> None:
    assert sorted(file.name for file in local.run.EVENTS.glob("*.json")) == sorted(local.run.EXPECTED)

"""The settings: what the environment may say, and that all of what is wrong with it is told at once."""

import dataclasses
from typing import Any

import pytest

from settings import Settings, SettingsError

RESOURCES = {
    "QUEUE_URL": "https://sqs.example/q.fifo",
    "DEAD_LETTER_QUEUE_URL": "https://sqs.example/dead.fifo",
    "FLOW_TABLE": "flow",
}
DEFAULTS = {
    "queue_url": "https://sqs.example/q.fifo",
    "dead_letter_queue_url": "https://sqs.example/dead.fifo",
    "flow_table": "flow",
    "parameter_prefix": "/rudderstack-pagerduty",
    "dedup_key_field": ("properties", "dedupKey"),
    "pagerduty_url": "https://events.pagerduty.com",
    "default_severity": "critical",
    "default_source": "",
    "service_field": (),
    "summary_template": None,
    "extra_details": (),
    "calls_per_minute": 120,
    "merge_repeated_triggers": True,
}
VARIABLES = [
    *("PARAMETER_PREFIX", "DEDUP_KEY_FIELD", "PAGERDUTY_URL"),
    *("DEFAULT_SEVERITY", "DEFAULT_SOURCE", "CALLS_PER_MINUTE", "MERGE_REPEATED_TRIGGERS"),
    *("SERVICE_FIELD", "SUMMARY_TEMPLATE", "EXTRA_DETAILS"),
]


EVENT_ON_HOST = {"around": ("", " on ", ""), "paths": (("event",), ("properties", "host"))}


def read(**environment: str) -> dict[str, Any]:
    settings = dataclasses.asdict(Settings.from_environment(RESOURCES | environment))
    return {**settings.pop("rules"), **settings}


def problems(**environment: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment(RESOURCES | environment)
    return error.value.problems


def test_an_environment_with_nothing_but_the_templates_resources_has_the_defaults() -> None:
    assert read() == DEFAULTS


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_variable_has_its_default(blank: str) -> None:
    assert read(**dict.fromkeys(VARIABLES, blank)) == DEFAULTS


def test_variables_of_others_are_not_looked_at() -> None:
    assert read(PATH="/usr/bin", parameter_prefix="/x", default_severity="info", SEVERITY="info") == DEFAULTS


def test_settings_cannot_be_changed() -> None:
    settings = Settings.from_environment(RESOURCES)

    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.calls_per_minute = 240  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.rules.default_severity = "info"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("PARAMETER_PREFIX", "/rp", "parameter_prefix", "/rp"),
        ("PARAMETER_PREFIX", "/acme/prod/rp_1.0-x", "parameter_prefix", "/acme/prod/rp_1.0-x"),
        ("PARAMETER_PREFIX", "/rp/", "parameter_prefix", "/rp"),
        ("PARAMETER_PREFIX", " /rp\n", "parameter_prefix", "/rp"),
        ("DEDUP_KEY_FIELD", "messageId", "dedup_key_field", ("messageId",)),
        ("DEDUP_KEY_FIELD", "context.alerts.0.id", "dedup_key_field", ("context", "alerts", "0", "id")),
        ("DEDUP_KEY_FIELD", "properties.alert key", "dedup_key_field", ("properties", "alert key")),
        ("DEDUP_KEY_FIELD", " properties.id ", "dedup_key_field", ("properties", "id")),
        ("DEDUP_KEY_FIELD", "{event} on {properties.host}", "dedup_key_field", EVENT_ON_HOST),
        ("DEDUP_KEY_FIELD", "{messageId}", "dedup_key_field", {"around": ("", ""), "paths": (("messageId",),)}),
        ("SERVICE_FIELD", "properties.team", "service_field", ("properties", "team")),
        ("SERVICE_FIELD", " userId\n", "service_field", ("userId",)),
        ("SUMMARY_TEMPLATE", "{event} on {properties.host}", "summary_template", EVENT_ON_HOST),
        ("SUMMARY_TEMPLATE", " { event } on { properties.host } ", "summary_template", EVENT_ON_HOST),
        ("EXTRA_DETAILS", "properties", "extra_details", (("properties",),)),
        ("EXTRA_DETAILS", "a.b, c.0 ,d e", "extra_details", (("a", "b"), ("c", "0"), ("d e",))),
        ("DEFAULT_SEVERITY", "critical", "default_severity", "critical"),
        ("DEFAULT_SEVERITY", "error", "default_severity", "error"),
        ("DEFAULT_SEVERITY", "warning", "default_severity", "warning"),
        ("DEFAULT_SEVERITY", "info", "default_severity", "info"),
        ("DEFAULT_SEVERITY", " Warning ", "default_severity", "warning"),
        ("DEFAULT_SOURCE", "rudderstack", "default_source", "rudderstack"),
        ("DEFAULT_SOURCE", " Zürich / 東京 ", "default_source", "Zürich / 東京"),
        ("CALLS_PER_MINUTE", " 10000 ", "calls_per_minute", 10_000),
        ("MERGE_REPEATED_TRIGGERS", "true", "merge_repeated_triggers", True),
        ("MERGE_REPEATED_TRIGGERS", " False ", "merge_repeated_triggers", False),
        ("QUEUE_URL", " https://sqs.example/other.fifo ", "queue_url", "https://sqs.example/other.fifo"),
        ("DEAD_LETTER_QUEUE_URL", "https://sqs.example/o.fifo", "dead_letter_queue_url", "https://sqs.example/o.fifo"),
        ("PAGERDUTY_URL", "https://events.eu.pagerduty.com", "pagerduty_url", "https://events.eu.pagerduty.com"),
        ("PAGERDUTY_URL", "https://events.pagerduty.com/", "pagerduty_url", "https://events.pagerduty.com"),
        ("PAGERDUTY_URL", "https://proxy.example:8443/pd", "pagerduty_url", "https://proxy.example:8443/pd"),
        ("PAGERDUTY_URL", "http://localhost:8080", "pagerduty_url", "http://localhost:8080"),
        ("PAGERDUTY_URL", "http://LOCALHOST:8080", "pagerduty_url", "http://LOCALHOST:8080"),
        ("PAGERDUTY_URL", "http://127.0.0.1:8080/", "pagerduty_url", "http://127.0.0.1:8080"),
        ("PAGERDUTY_URL", "http://127.1.2.3", "pagerduty_url", "http://127.1.2.3"),
        ("PAGERDUTY_URL", "http://[::1]:8080", "pagerduty_url", "http://[::1]:8080"),
        ("PAGERDUTY_URL", "http://host.docker.internal:8080", "pagerduty_url", "http://host.docker.internal:8080"),
        ("PAGERDUTY_URL", "https://localhost:8080", "pagerduty_url", "https://localhost:8080"),
    ],
)
def test_a_variable_sets_one_thing(variable: str, text: str, field: str, value: object) -> None:
    assert read(**{variable: text}) == {**DEFAULTS, field: value}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PARAMETER_PREFIX", "rp"),
        ("PARAMETER_PREFIX", "/"),
        ("PARAMETER_PREFIX", "//"),
        ("PARAMETER_PREFIX", "/rp//x"),
        ("PARAMETER_PREFIX", "/r p"),
        ("PARAMETER_PREFIX", "/rp*"),
        ("PARAMETER_PREFIX", "/zürich"),
        ("PARAMETER_PREFIX", "arn:aws:ssm:eu-central-1:123456789012:parameter/rp"),
        ("DEDUP_KEY_FIELD", "."),
        ("DEDUP_KEY_FIELD", "properties."),
        ("DEDUP_KEY_FIELD", ".dedupKey"),
        ("DEDUP_KEY_FIELD", "properties..dedupKey"),
        ("DEDUP_KEY_FIELD", "properties. .dedupKey"),
        ("DEDUP_KEY_FIELD", "{}"),
        ("DEDUP_KEY_FIELD", "{properties.host"),
        ("DEDUP_KEY_FIELD", "properties.host}"),
        ("DEDUP_KEY_FIELD", "{properties..host}"),
        ("DEDUP_KEY_FIELD", "{properties.host}{"),
        ("DEDUP_KEY_FIELD", "{{properties.host}}"),
        ("SERVICE_FIELD", "."),
        ("SERVICE_FIELD", "properties..team"),
        ("SERVICE_FIELD", "{properties.team}"),
        ("SUMMARY_TEMPLATE", "Disk full"),
        ("SUMMARY_TEMPLATE", "{}"),
        ("SUMMARY_TEMPLATE", "{ }"),
        ("SUMMARY_TEMPLATE", "{event"),
        ("SUMMARY_TEMPLATE", "event}"),
        ("SUMMARY_TEMPLATE", "}event{"),
        ("SUMMARY_TEMPLATE", "{event} {"),
        ("SUMMARY_TEMPLATE", "{{event}}"),
        ("SUMMARY_TEMPLATE", "{event{event}}"),
        ("SUMMARY_TEMPLATE", "{properties.}"),
        ("SUMMARY_TEMPLATE", "{event}" + "{" * 10_000),
        ("EXTRA_DETAILS", ","),
        ("EXTRA_DETAILS", "properties,"),
        ("EXTRA_DETAILS", "properties,,userId"),
        ("EXTRA_DETAILS", "properties, context..ip"),
        ("EXTRA_DETAILS", "{properties}"),
        ("DEFAULT_SEVERITY", "fatal"),
        ("DEFAULT_SEVERITY", "warn"),
        ("DEFAULT_SEVERITY", "critical,error"),
        ("DEFAULT_SEVERITY", "1"),
        ("MERGE_REPEATED_TRIGGERS", "yes"),
        ("CALLS_PER_MINUTE", "0"),
        ("CALLS_PER_MINUTE", "-1"),
        ("CALLS_PER_MINUTE", "1.5"),
        ("CALLS_PER_MINUTE", "many"),
        ("PAGERDUTY_URL", "events.pagerduty.com"),
        ("PAGERDUTY_URL", "https://"),
        ("PAGERDUTY_URL", "https:///v2/enqueue"),
        ("PAGERDUTY_URL", "ftp://events.pagerduty.com"),
        ("PAGERDUTY_URL", "file:///etc/passwd"),
        ("PAGERDUTY_URL", "https://events.pagerduty.com:port"),
        ("PAGERDUTY_URL", "https://events.pagerduty.com:99999"),
        ("PAGERDUTY_URL", "https://[::1"),
        ("PAGERDUTY_URL", "https://user:password@events.pagerduty.com"),
        ("PAGERDUTY_URL", "https://events.pagerduty.com?a=b"),
        ("PAGERDUTY_URL", "https://events.pagerduty.com#a"),
        ("PAGERDUTY_URL", "http://events.pagerduty.com"),
        ("PAGERDUTY_URL", "HTTP://events.pagerduty.com"),
        ("PAGERDUTY_URL", "http://localhost.example"),
        ("PAGERDUTY_URL", "http://127.0.0.1.example"),
        ("PAGERDUTY_URL", "http://127.0.0.1@events.pagerduty.com"),
        ("PAGERDUTY_URL", "http://10.0.0.1"),
        ("PAGERDUTY_URL", "http://[::2]"),
        ("PAGERDUTY_URL", "http://xhost.docker.internal"),
        ("PAGERDUTY_URL", "http://hostxdocker.internal"),
    ],
)
def test_what_makes_no_sense_is_one_problem_that_names_the_variable(variable: str, text: str) -> None:
    (problem,) = problems(**{variable: text})

    assert problem.startswith(f"{variable}: expected ")


@pytest.mark.parametrize("variable", RESOURCES)
@pytest.mark.parametrize("blank", ["", " \t"])
def test_without_one_of_the_templates_resources_nothing_works(variable: str, blank: str) -> None:
    (problem,) = problems(**{variable: blank})

    assert problem.startswith(f"{variable}: missing, ")


def test_all_problems_are_told_at_once() -> None:
    wrong = {
        "PARAMETER_PREFIX": "rp",
        "DEDUP_KEY_FIELD": "a..b",
        "SERVICE_FIELD": "a..b",
        "SUMMARY_TEMPLATE": "{a",
        "EXTRA_DETAILS": "a,,b",
        "PAGERDUTY_URL": "http://x",
        "DEFAULT_SEVERITY": "fatal",
        "CALLS_PER_MINUTE": "0",
        "MERGE_REPEATED_TRIGGERS": "yes",
        "QUEUE_URL": "",
        "DEAD_LETTER_QUEUE_URL": "",
        "FLOW_TABLE": "",
    }

    assert {problem.partition(":")[0] for problem in problems(**wrong)} == set(wrong)


def test_the_error_says_all_problems_in_one_message() -> None:
    with pytest.raises(SettingsError, match=r"^PARAMETER_PREFIX: .*; DEFAULT_SEVERITY: .*$"):
        Settings.from_environment(RESOURCES | {"PARAMETER_PREFIX": "rp", "DEFAULT_SEVERITY": "fatal"})


def test_a_problem_does_not_show_the_password_in_a_url() -> None:
    assert "hunter2" not in "".join(problems(PAGERDUTY_URL="https://user:hunter2@events.pagerduty.com"))

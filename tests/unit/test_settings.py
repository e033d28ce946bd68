"""The settings: what the environment may hold, and that all its problems are reported at once."""

import dataclasses
from typing import Any

import pytest

import dependencies
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
WRONG = {
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
    "DEAD_LETTER_QUEUE_URL": "\t",
    "FLOW_TABLE": "",
}
EVENT_ON_HOST = {"around": ("", " on ", ""), "paths": (("event",), ("properties", "host"))}


def read(environment: dict[str, str]) -> dict[str, Any]:
    settings = dataclasses.asdict(Settings.from_environment(RESOURCES | environment))
    return {**settings.pop("rules"), **settings}


def problems(environment: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment(RESOURCES | environment)
    return str(error.value).split("; ")


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="nothing"),
        pytest.param(dict.fromkeys(WRONG.keys() - RESOURCES, " \n"), id="blank variables"),
        pytest.param({"PATH": "/usr/bin", "default_severity": "info", "SEVERITY": "info"}, id="other variables"),
    ],
)
def test_a_missing_or_blank_variable_has_its_default(environment: dict[str, str]) -> None:
    assert read(environment) == DEFAULTS


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("PARAMETER_PREFIX", " /acme/prod/rp_1.0-x/\n", "parameter_prefix", "/acme/prod/rp_1.0-x"),
        ("DEDUP_KEY_FIELD", "context.alerts.0.id", "dedup_key_field", ("context", "alerts", "0", "id")),
        ("DEDUP_KEY_FIELD", " properties.alert key ", "dedup_key_field", ("properties", "alert key")),
        ("DEDUP_KEY_FIELD", "{event} on {properties.host}", "dedup_key_field", EVENT_ON_HOST),
        ("SERVICE_FIELD", " properties.team\n", "service_field", ("properties", "team")),
        ("SUMMARY_TEMPLATE", " { event } on { properties.host } ", "summary_template", EVENT_ON_HOST),
        ("EXTRA_DETAILS", "properties", "extra_details", (("properties",),)),
        ("EXTRA_DETAILS", "a.b, c.0 ,d e", "extra_details", (("a", "b"), ("c", "0"), ("d e",))),
        ("DEFAULT_SEVERITY", " Warning ", "default_severity", "warning"),
        ("DEFAULT_SEVERITY", "error", "default_severity", "error"),
        ("DEFAULT_SEVERITY", "info", "default_severity", "info"),
        ("DEFAULT_SOURCE", " Zürich / 東京 ", "default_source", "Zürich / 東京"),
        ("CALLS_PER_MINUTE", "1", "calls_per_minute", 1),
        ("CALLS_PER_MINUTE", " 10000 ", "calls_per_minute", 10_000),
        ("MERGE_REPEATED_TRIGGERS", " False ", "merge_repeated_triggers", False),
        ("QUEUE_URL", " https://sqs.example/other.fifo ", "queue_url", "https://sqs.example/other.fifo"),
        ("DEAD_LETTER_QUEUE_URL", "https://sqs.example/o.fifo", "dead_letter_queue_url", "https://sqs.example/o.fifo"),
        ("PAGERDUTY_URL", "https://events.eu.pagerduty.com/", "pagerduty_url", "https://events.eu.pagerduty.com"),
        ("PAGERDUTY_URL", "https://proxy.example:8443/pd", "pagerduty_url", "https://proxy.example:8443/pd"),
        ("PAGERDUTY_URL", "http://LOCALHOST:8080", "pagerduty_url", "http://LOCALHOST:8080"),
        ("PAGERDUTY_URL", "http://127.1.2.3", "pagerduty_url", "http://127.1.2.3"),
        ("PAGERDUTY_URL", "http://[::1]:8080", "pagerduty_url", "http://[::1]:8080"),
        ("PAGERDUTY_URL", "http://host.docker.internal:8080", "pagerduty_url", "http://host.docker.internal:8080"),
    ],
)
def test_a_variable_sets_one_field(variable: str, text: str, field: str, value: object) -> None:
    assert read({variable: text}) == {**DEFAULTS, field: value}


@pytest.mark.parametrize(
    ("variable", "texts"),
    [
        ("PARAMETER_PREFIX", ["rp", "/", "//", "/rp//x", "/r p", "/rp*", "/zürich", "arn:aws:ssm:x:1:parameter/rp"]),
        ("DEDUP_KEY_FIELD", [".", "properties.", ".dedupKey", "properties..dedupKey", "properties. .dedupKey", "{}"]),
        ("DEDUP_KEY_FIELD", ["{properties.host", "properties.host}", "{properties..host}", "{a}{", "{{a}}"]),
        ("SERVICE_FIELD", [".", "properties..team", "{properties.team}"]),
        ("SUMMARY_TEMPLATE", ["Disk full", "{}", "{ }", "{event", "event}", "}event{", "{event{event}}", "{a.}"]),
        ("SUMMARY_TEMPLATE", ["{event} {", "{event}" + "{" * 10_000]),
        ("EXTRA_DETAILS", [",", "properties,", "properties,,userId", "properties, context..ip", "{properties}"]),
        ("DEFAULT_SEVERITY", ["fatal", "warn", "critical,error", "1"]),
        ("MERGE_REPEATED_TRIGGERS", ["yes", "1"]),
        ("CALLS_PER_MINUTE", ["0", "-1", "1.5", "many"]),
        ("PAGERDUTY_URL", ["events.pagerduty.com", "https://", "https:///v2/enqueue", "ftp://a.example", "file:///a"]),
        ("PAGERDUTY_URL", ["https://a.example:port", "https://a.example:99999", "https://[::1", "https://a .b/", "https://ä.example"]),
        ("PAGERDUTY_URL", ["https://user:password@a.example", "https://a.example?a=b", "https://a.example#a"]),
        ("PAGERDUTY_URL", ["HTTP://a.example", "http://localhost.example", "http://127.0.0.1.example"]),
        ("PAGERDUTY_URL", ["http://127.0.0.1@a.example", "http://10.0.0.1", "http://[::2]", "http://hostxdocker.internal"]),
    ],
)  # fmt: skip
def test_an_invalid_value_is_one_problem_that_names_its_variable(variable: str, texts: list[str]) -> None:
    found = {text: problems({variable: text}) for text in texts}

    assert {
        text: it for text, it in found.items() if len(it) != 1 or not it[0].startswith(f"{variable}: expected ")
    } == {}


@pytest.mark.parametrize("variable", RESOURCES)
def test_a_resource_of_the_template_has_no_default(variable: str) -> None:
    (problem,) = problems({variable: " \t"})

    assert problem.startswith(f"{variable}: missing, expected ")


def test_all_problems_are_reported_at_once() -> None:
    assert {problem.partition(":")[0] for problem in problems(WRONG)} == WRONG.keys()


def test_a_problem_does_not_show_the_password_of_a_url() -> None:
    assert "hunter2" not in "".join(problems({"PAGERDUTY_URL": "https://user:hunter2@events.pagerduty.com"}))


def test_settings_cannot_be_changed() -> None:
    settings = Settings.from_environment(RESOURCES)

    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.calls_per_minute = 240  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.rules.default_severity = "info"  # type: ignore[misc]


def test_invalid_settings_take_the_place_of_the_dependencies() -> None:
    found = dependencies.load({})

    assert isinstance(found, SettingsError)
    assert str(found).startswith("QUEUE_URL: missing")

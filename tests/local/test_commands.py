"""The local stack's commands: their options, their output, and that they leave nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click
import pytest
import urllib3

import local.__main__
from local import serve
from local.options import LOCAL_STACK_FILE, LOCAL_TOKEN, ROOT, STATE, Options
from local.run import EVENTS, EXPECTED, event_files, parse
from local.sandbox import Sandbox
from tests.support import track, wait_until

KEY: Final = "c" * 32
OTHER_KEY: Final = "d" * 32
TOKEN: Final = "another-secret-token"
UNSET: Final = dict.fromkeys(("PAGERDUTY_URL", "ROUTING_KEY", "ROUTING_KEYS", "WEBHOOK_TOKEN"), "")
SETTINGS: Final = {"DEFAULT_SEVERITY": "warning", "EXTRA_DETAILS": "properties", "MERGE_REPEATED_TRIGGERS": "false"}
PAGERDUTY: Final = "https://events.pagerduty.com"


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command in this process; make exports unset variables as empty ones."""

    def run(*arguments: str, **environment: str) -> int:
        monkeypatch.setattr(sys, "argv", ["python -m local", *arguments])
        for name, value in (UNSET | environment).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            local.__main__.cli()
        return int(ended.value.code or 0)

    return run


@pytest.mark.parametrize(
    ("arguments", "environment", "options"),
    [
        ("serve", SETTINGS, Options(port=3000, settings=SETTINGS)),
        (
            f"serve --port=0 --token {TOKEN} --rate-limit=600 --service default={KEY} a={OTHER_KEY}",
            {"ROUTING_KEY": OTHER_KEY},
            Options(token=TOKEN, services={"default": KEY, "a": OTHER_KEY}, rate_limit=600),
        ),
        (
            "serve",
            {"PAGERDUTY_URL": PAGERDUTY, "ROUTING_KEY": KEY, "ROUTING_KEYS": f"a={KEY},{OTHER_KEY} b={KEY}"},
            Options(3000, pagerduty_url=PAGERDUTY, services={"default": KEY, "a": f"{KEY},{OTHER_KEY}", "b": KEY}),
        ),
    ],
    ids=["settings", "command line", "environment"],
)
def test_serve_reads_its_options_from_the_command_line_and_the_environment(
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    environment: dict[str, str],
    options: Options,
) -> None:
    served: list[Options] = []
    monkeypatch.setattr(serve, "main", served.append)

    assert (run(*arguments.split(), **environment), served) == (0, [options])


def test_wrong_usage_exits_with_2_and_shows_no_secret(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("serve", ROUTING_KEYS=KEY)

    output = capsys.readouterr().err
    assert (code, "expected NAME=KEY with a name of A-Z a-z 0-9 _ . -" in output, KEY in output) == (2, True, False)


def test_run_previews_own_events_by_the_settings_explains_a_refusal_once_and_reports_another_result_than_expected(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trigger = track(event="Disk full", properties={"n": 7})
    refused = track(event="Disk full", properties={"action": "reslove"})
    own = tmp_path / "my events"
    own.mkdir()
    (own / "many.ndjson").write_text(f"\ufeff{json.dumps(trigger)}\n{json.dumps(refused)}\n")
    sample = parse((EVENTS / "alert-1-trigger.json").read_bytes())
    (own / "alert-1-trigger.json").write_text(
        json.dumps(sample | {"body": sample["body"].replace("trigger", "explode")})
    )

    code = run("run", str(EVENTS / "alert-2-acknowledge.json"), str(own), SUMMARY_TEMPLATE="{event}: {properties.n}")
    output = capsys.readouterr().out
    assert "many.ndjson, event 1: Would send this alert event (trigger) to PagerDuty service default.\n" in output
    assert '"summary": "Disk full: 7"' in output
    assert output.count("\nmany.ndjson, event 2: properties.action: expected trigger, acknowledge or resolve, got") == 1
    assert re.search("^many.ndjson +200 queued +alert trigger +triggered *$", output, re.MULTILINE)
    assert output.count("\nalert-1-trigger.json: properties.action: expected trigger, acknowledge or resolve, got") == 1
    assert output.count("NOT AS EXPECTED") == 1
    assert (
        "NOT AS EXPECTED  alert-2-acknowledge.json: expected 200 delivered, PagerDuty received alert acknowledge, "
        "incident acknowledged; got 200 delivered, PagerDuty received alert acknowledge (dropped: no incident is open)"
    ) in output
    assert output.endswith("\n3 files sent to the PagerDuty sandbox: 1 not as expected, 2 of 3 events refused.\n")
    assert code == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'\xef\xbb\xbf{"type": "track"}', {"type": "track"}),
        ('{"type": "tr\u00e4ck"}'.encode("utf-16"), {"type": "tr\u00e4ck"}),
        (b'{"a": 1}\n\n{"b": 2}\r\n', [{"a": 1}, {"b": 2}]),
        (b'{"a":\n1}', {"a": 1}),
        (b"\n", "the file is empty"),
        (b'{"a":\n x}', "not JSON, line 2, column 2: "),
        (b'{"a": 1}\n\n{"b" 2}\n', "not JSON, line 3, column 6: "),
    ],
)
def test_a_file_is_read_or_the_place_of_the_mistake_is_reported(content: bytes, expected: object) -> None:
    try:
        found: object = parse(content)
    except ValueError as error:
        found = str(error)[: len(str(expected))]

    assert found == expected


def test_a_folder_stands_for_its_event_files_and_may_not_be_empty(tmp_path: Path) -> None:
    for name in ("b.json", "a.ndjson", "readme.md"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()

    assert event_files(tmp_path) == [tmp_path / "a.ndjson", tmp_path / "b.json"]
    assert [path.name for path in event_files(EVENTS)] == list(EXPECTED)
    with pytest.raises(click.UsageError, match="empty: this folder has no "):
        event_files(tmp_path / "empty")


# -- in processes ----------------------------------------------------------------------------------------------------


class Command:
    """A command in its own process; whatever it starts can be found by a mark in its PATH."""

    def __init__(self, *arguments: str, module: str = "local", **environment: str) -> None:
        self._mark = f"/nowhere/{uuid.uuid4()}"
        path = f"{os.environ['PATH']}:{self._mark}"
        self.process = subprocess.Popen(  # noqa: S603 -- this interpreter
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ | UNSET | {"PATH": path, "PYTHONUNBUFFERED": "1"} | environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, text: str) -> str:
        """Return the output up to the first line that contains the text."""
        lines = []
        for line in self.process.stdout or ():
            lines.append(line)
            if text in line:
                return "".join(lines)
        raise AssertionError(f"It ended without {text}: {lines}")

    def wait_until_listening(self) -> str:
        return self.read_until("Listening on ").rpartition("Listening on ")[2].strip()

    def press_ctrl_c(self) -> tuple[float, str]:
        """Send SIGINT to the process group, as a terminal does; return the seconds until the end, and the output."""
        began = time.monotonic()
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(timeout=60)
        # Not communicate(), which would miss what read_until() has in its buffer.
        return time.monotonic() - began, self.process.stdout.read() if self.process.stdout else ""

    def left_behind(self) -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue  # It ended meanwhile.
        return found


@pytest.fixture
def start() -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*arguments: str, **more: str) -> Command:
        started.append(Command(*arguments, **more))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


def post(url: str, content: object, token: str = LOCAL_TOKEN) -> str:
    response = urllib3.request("POST", f"{url}/events", json=content, headers={"X-Api-Key": token}, timeout=20)
    return str(response.json()["status"])


def test_serve_shows_what_happens_is_found_by_doctor_and_containers_and_ends_while_a_browser_listens(
    start: Callable[..., Command], run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (STATE / "env.json").write_text("left behind by an earlier version")
    (STATE / "env.json").chmod(0o644)
    serving = start("serve", "--port", "0")
    url = serving.wait_until_listening()
    post(url, track(messageId="m-1", properties={"dedupKey": "disk\x1b[31m"}))
    post(url, [track(messageId="m-2", properties={"action": "resolve"}), 7])
    output = serving.read_until("  worker ")
    code = run("dead-letters", "--stack", "local") or run("doctor", "--stack", "local")
    doctors_calls = serving.read_until("401 ").count("POST /events?preview=true  (make doctor)\n")
    variables = json.loads((STATE / "env.json").read_text())
    modes = [oct(file.stat().st_mode & 0o777) for file in STATE.glob("*.json")]
    with urllib3.request("GET", f"{url}/api/updates", preload_content=False) as updates:
        first = next(iter(updates))
        seconds, rest = serving.press_ctrl_c()

    assert [line[10:] for line in output.splitlines() if line[2:3] == line[5:6] == ":"] == [
        "POST /events",
        "  PagerDuty  202 alert trigger disk [31m",
        "  answer     200 delivered PagerDuty accepted the event",
        "POST /events",
        "  answer     200 queued 2 events: 1 queued, 1 rejected",
        "  PagerDuty  202 alert resolve disk-full",
        "  worker     delivered resolve default disk-full m-2",
    ]
    lines = capsys.readouterr().out.splitlines()
    assert (code, lines[0], lines[-1]) == (0, "No dead letters.", "Nothing to fix, 0 warnings. Nobody was paged.")
    assert doctors_calls == 2
    assert variables["ApiFunction"] == variables["WorkerFunction"]
    assert {name for name, value in variables["ApiFunction"].items() if "//host.docker.internal:" in value} == {
        *("AWS_ENDPOINT_URL", "PAGERDUTY_URL", "QUEUE_URL", "DEAD_LETTER_QUEUE_URL")
    }
    assert modes == ["0o600", "0o600"]
    assert (first, seconds < 2) == (b"retry: 1000\n", True)
    assert (serving.process.returncode, rest.endswith("Stopped.\n")) == (130, True)
    assert (serving.left_behind(), LOCAL_STACK_FILE.exists()) == ([], False)


def test_run_sends_every_event_file_and_all_results_are_as_expected(start: Callable[..., Command]) -> None:
    command = start("run")
    output, _ = command.process.communicate(timeout=60)

    assert command.process.returncode == 0, output
    assert [line.split()[0] for line in output.splitlines()[2:10]] == list(EXPECTED)
    assert output.endswith("\n8 files sent to the PagerDuty sandbox: all as expected.\n")
    assert command.left_behind() == []


@pytest.mark.parametrize(("module", "argument"), [("local", "run"), ("local.command", "benchmarks.storm")])
def test_a_command_ends_within_two_seconds_of_ctrl_c_and_leaves_nothing_behind(
    start: Callable[..., Command], module: str, argument: str
) -> None:
    command = start(argument, module=module, PYTHONPATH="function")
    # The command itself, and at least one child.
    wait_until(lambda: len(command.left_behind()) > 1)
    seconds, output = command.press_ctrl_c()

    assert (command.process.returncode, output.splitlines()[-1], "Traceback" in output) == (130, "Stopped.", False)
    assert seconds < 2
    wait_until(lambda: command.left_behind() == [], seconds=1)


def test_serve_with_another_pagerduty_simulates_nothing_shows_no_secret_and_leaves_nothing_behind_when_killed(
    start: Callable[..., Command], sandbox: Sandbox
) -> None:
    secrets = {"ROUTING_KEY": KEY, "WEBHOOK_TOKEN": TOKEN}
    command = start("serve", "--port", "0", PAGERDUTY_URL=sandbox.plain_url, **secrets)
    url = command.wait_until_listening()
    post(url, track(), TOKEN)
    simulations = {"/api/storm": {"events": 100}, "/api/pagerduty": {"mode": "fails", "limit": 1}}
    statuses = [urllib3.request("POST", url + path, json=content).status for path, content in simulations.items()]
    command.process.kill()
    output, _ = command.process.communicate(timeout=60)

    assert [received.event["routing_key"] for received in sandbox.received] == [KEY]
    assert [secret for secret in secrets.values() if secret in output] == []
    assert statuses == [409, 409]
    wait_until(lambda: command.left_behind() == [])

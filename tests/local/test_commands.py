"""The local stack's commands: their options, their output, and that they leave nothing behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import urllib3

import local.__main__
from local import serve
from local.options import LOCAL_STACK_FILE, LOCAL_TOKEN, ROOT, STATE, Options
from local.run import EVENTS, EXPECTED, read_event
from local.sandbox import Sandbox
from tests.support import track, wait_until

KEY: Final = "c" * 32
OTHER_KEY: Final = "d" * 32
TOKEN: Final = "another-secret-token"
VARIABLES: Final = ("PAGERDUTY_URL", "ROUTING_KEY", "ROUTING_KEYS", "WEBHOOK_TOKEN")
SETTINGS: Final = {
    "DEDUP_KEY_FIELD": "messageId",
    "DEFAULT_SEVERITY": "warning",
    "DEFAULT_SOURCE": "shop",
    "SERVICE_FIELD": "properties.team",
    "SUMMARY_TEMPLATE": "{event}: {properties.n}",
    "EXTRA_DETAILS": "properties",
    "MERGE_REPEATED_TRIGGERS": "false",
}
PAGERDUTY: Final = "https://events.pagerduty.com"


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command in this process, with only the given environment variables."""

    def run(*arguments: str, **environment: str) -> int:
        monkeypatch.setattr(sys, "argv", ["python -m local", *arguments])
        for name in (*VARIABLES, *SETTINGS):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return local.__main__.main()

    return run


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """Replace `serve` with a list of the options that it is called with."""
    options: list[Options] = []
    monkeypatch.setattr(serve, "main", options.append)
    return options


@pytest.mark.parametrize(
    ("arguments", "environment", "options"),
    [
        ((), dict.fromkeys(VARIABLES, ""), Options(port=3000)),
        (
            ("--port", "0", "--rate-limit", "600", "--pagerduty-url", PAGERDUTY),
            {},
            Options(pagerduty_url=PAGERDUTY, rate_limit=600),
        ),
        (
            ("--service", f"default={KEY}", f"a={KEY},{OTHER_KEY}", "--token", TOKEN, "--service", f"b={KEY}"),
            {"ROUTING_KEY": OTHER_KEY},
            Options(port=3000, token=TOKEN, services={"default": KEY, "a": f"{KEY},{OTHER_KEY}", "b": KEY}),
        ),
        (
            (),
            {
                "PAGERDUTY_URL": PAGERDUTY,
                "ROUTING_KEY": f"{KEY} {OTHER_KEY}",
                "ROUTING_KEYS": f"a={KEY},{OTHER_KEY} b={KEY}",
                "WEBHOOK_TOKEN": TOKEN,
            },
            Options(
                port=3000,
                token=TOKEN,
                pagerduty_url=PAGERDUTY,
                services={"default": f"{KEY} {OTHER_KEY}", "a": f"{KEY},{OTHER_KEY}", "b": KEY},
            ),
        ),
        ((), {**SETTINGS, "PARAMETER_PREFIX": "/of-another-stack"}, Options(port=3000, settings=SETTINGS)),
    ],
    ids=["defaults, as make exports unset variables", "options", "services", "environment", "settings"],
)
def test_serve_reads_its_options_from_the_command_line_and_the_environment(
    run: Callable[..., int],
    served: list[Options],
    arguments: tuple[str, ...],
    environment: dict[str, str],
    options: Options,
) -> None:
    assert (run("serve", *arguments, **environment), served) == (0, [options])


@pytest.mark.usefixtures("served")
@pytest.mark.usefixtures("served")
def test_serve_warns_of_real_secrets_on_the_command_line(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    errors = []
    for arguments in ([f"--service=default={KEY}"], ["--token", TOKEN], []):
        run("serve", "--pagerduty-url", PAGERDUTY, *arguments, ROUTING_KEY=KEY, WEBHOOK_TOKEN=TOKEN)
        errors.append(capsys.readouterr().err)

    assert ["shows the secrets of this command line" in error for error in errors] == [True, True, False]


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("serve",), {"WEBHOOK_TOKEN": "short"}, "'--token': expected at least 16 characters"),
        (("serve", "--service", KEY), {}, "'--service': expected NAME=KEY with a name of A-Z a-z 0-9 _ . -"),
        (("serve",), {"ROUTING_KEYS": KEY}, "ROUTING_KEYS: expected NAME=KEY with a name of A-Z a-z 0-9 _ . -"),
        (("serve", "--port", "99999"), {}, "'--port': 99999 is not in the range 0<=x<=65535."),
        (("run",), {"PAGERDUTY_URL": PAGERDUTY}, "needs ROUTING_KEY: the integration key of the service to page"),
        (("run", "/nowhere.json"), {}, "File '/nowhere.json' does not exist."),
    ],
)
def test_wrong_usage_exits_with_2_and_shows_no_secret(
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    environment: dict[str, str],
    message: str,
) -> None:
    code = run(*arguments, **environment)

    output = capsys.readouterr().err
    assert (code, output.endswith(f"{message}\n"), KEY in output) == (2, True, False)


def test_serve_suggests_another_port_if_its_port_is_in_use(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = run("serve", "--port", str(port))

    message = f"Error: port {port} is in use; choose another: make serve PORT={port + 1}\n"
    assert (code, capsys.readouterr().err) == (1, message)


def test_run_refuses_a_file_without_an_event(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "odd.json"
    file.write_text("{}")

    assert run("run", str(file)) == 2
    assert f"Error: {file}: " in capsys.readouterr().err


def test_run_fails_if_an_event_does_not_have_the_expected_result(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    event = read_event(EVENTS / "alert-1-trigger.json")
    event["body"] = event["body"].replace('"trigger"', '"explode"')
    file = tmp_path / "alert-1-trigger.json"
    file.write_text(json.dumps(event))

    assert run("run", str(file)) == 1
    assert (
        "NOT AS EXPECTED  alert-1-trigger.json: expected 200 delivered, PagerDuty received alert trigger, incident "
        "triggered; got 400 action_unknown, PagerDuty received nothing, incident none: "
    ) in capsys.readouterr().out


# -- in processes ----------------------------------------------------------------------------------------------------


class Command:
    """A command in its own process; whatever it starts can be found by a mark in its PATH."""

    def __init__(self, *arguments: str, module: str = "local", environment: Mapping[str, str]) -> None:
        self._mark = f"/nowhere/{uuid.uuid4()}"
        path = f"{os.environ['PATH']}:{self._mark}"
        changes = {**dict.fromkeys(VARIABLES, ""), "PATH": path, "PYTHONUNBUFFERED": "1", **environment}
        self.process = subprocess.Popen(  # noqa: S603 -- this interpreter
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ | changes,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, text: str) -> str:
        """Return the output up to the first line that contains the text."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
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
        seconds = time.monotonic() - began
        assert self.process.stdout is not None
        # Not communicate(), which would miss what read_until() has in its buffer.
        return seconds, self.process.stdout.read()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

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

    def start(*arguments: str, module: str = "local", **environment: str) -> Command:
        started.append(Command(*arguments, module=module, environment=environment))
        return started[-1]

    yield start
    for each in started:
        each.kill()


class Serving(NamedTuple):
    """A running `serve`, and its URL."""

    command: Command
    url: str


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    """Share one `serve`, which finds the files of an earlier version."""
    for name in ("env.json", "stack.json"):
        (STATE / name).write_text("left behind by an earlier version")
        (STATE / name).chmod(0o644)
    command = Command("serve", "--port", "0", environment={})
    yield Serving(command, command.wait_until_listening())
    command.kill()


def post(url: str, content: object, token: str = LOCAL_TOKEN) -> str:
    response = urllib3.request("POST", f"{url}/events", json=content, headers={"X-Api-Key": token}, timeout=20)
    return str(response.json()["status"])


# The tests of the shared `serve` come first: other stacks write the same files.


def test_serve_shows_each_request_its_answer_and_the_results_of_the_worker(serving: Serving) -> None:
    post(serving.url, track(messageId="m-1", properties={"dedupKey": "disk\x1b[31m"}))
    post(serving.url, [track(messageId="m-2", properties={"action": "resolve"}), 7])
    output = serving.command.read_until("  worker ")

    assert [line[10:] for line in output.splitlines() if line[2:3] == line[5:6] == ":"] == [
        "POST /events",
        "  PagerDuty  202 alert trigger disk [31m",
        "  answer     200 delivered PagerDuty accepted the event",
        "POST /events",
        "  answer     200 queued 2 events: 1 queued, 1 rejected",
        "  PagerDuty  202 alert resolve disk-full",
        "  worker     delivered resolve default disk-full m-2",
    ]


def test_serve_writes_the_variables_for_containers_where_only_this_user_can_read_them(serving: Serving) -> None:
    variables = json.loads((STATE / "env.json").read_text())
    urls = {name: urllib3.util.parse_url(value) for name, value in variables["ApiFunction"].items() if "URL" in name}

    assert variables["ApiFunction"] == variables["WorkerFunction"]
    assert {name: (url.scheme, url.host) for name, url in urls.items()} == dict.fromkeys(
        ("AWS_ENDPOINT_URL", "PAGERDUTY_URL", "QUEUE_URL", "DEAD_LETTER_QUEUE_URL"), ("http", "host.docker.internal")
    )
    assert variables["ApiFunction"].keys() - urls.keys() == {"FLOW_TABLE", "CALLS_PER_MINUTE"}
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in STATE.glob("*.json")} == {
        "env.json": "0o600",
        "stack.json": "0o600",
    }


def test_the_doctor_finds_nothing_to_fix_in_the_stack_of_serve(
    serving: Serving, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("doctor", "--stack", "local")
    findings = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1].strip()]
    shown = serving.command.read_until("401 ")

    assert (code, findings) == (0, ["ok"] * 8 + ["Nothing"])
    assert shown.count("POST /events?preview=true  (make doctor)\n") == 2


def test_run_previews_events_by_the_settings_of_the_environment(start: Callable[..., Command], tmp_path: Path) -> None:
    trigger = {"type": "track", "event": "Disk full", "properties": {"source": "db-1", "dedup_key": "disk", "n": 7}}
    refused = {"type": "track", "event": "Disk full", "properties": {"source": "db-1", "action": "reslove"}}
    one, many = tmp_path / "one.json", tmp_path / "many.json"
    one.write_text(json.dumps(trigger))
    many.write_text(json.dumps({"batch": [trigger, refused]}))
    command = start("run", str(one), str(many), SUMMARY_TEMPLATE="{event}: {properties.n}")
    output, _ = command.process.communicate(timeout=60)
    preview = """\
Would send this alert event (trigger) to PagerDuty service default.
  warning: properties.dedupKey: found as "dedup_key"; write it as dedupKey
{
  "event_action": "trigger",
  "dedup_key": "disk",
  "payload": {
    "summary": "Disk full: 7",
    "severity": "critical",
    "source": "db-1"
  }
}
"""

    assert command.process.returncode == 0, output
    assert output.startswith(
        f"one.json: {preview}\nmany.json, event 1: {preview}"
        "many.json, event 2: properties.action: expected trigger, acknowledge or resolve, "
        'got "reslove"; not sent, since a misspelt resolve must not page\n\n'
    )
    rows = {row[0]: row[1:] for line in output.splitlines() if (row := re.split("  +", line)) and len(row) == 4}
    assert rows["one.json"] == ["200 delivered", "alert trigger", "triggered"]
    assert rows["many.json"] == ["200 queued", "alert trigger", "triggered"]


def test_run_sends_every_event_file_and_all_results_are_as_expected(start: Callable[..., Command]) -> None:
    command = start("run")
    output, _ = command.process.communicate(timeout=60)

    assert command.process.returncode == 0, output
    assert [line.split()[0] for line in output.splitlines()[2:10]] == list(EXPECTED)
    assert output.endswith("\n8 files sent to the PagerDuty sandbox: all as expected.\n")
    assert command.left_behind() == []


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("local", ["run"]),
        ("chaos", ["--events", "2000"]),
        ("local.command", ["benchmarks.storm"]),
    ],
)
def test_a_command_ends_within_two_seconds_of_ctrl_c_and_leaves_nothing_behind(
    start: Callable[..., Command], module: str, arguments: list[str]
) -> None:
    command = start(*arguments, module=module, PYTHONPATH="function")
    # The command itself, and at least one child.
    wait_until(lambda: len(command.left_behind()) > 1)
    seconds, output = command.press_ctrl_c()

    assert (command.process.returncode, output.splitlines()[-1], "Traceback" in output) == (130, "Stopped.", False)
    assert seconds < 2
    wait_until(lambda: command.left_behind() == [], seconds=1)


def test_serve_ends_while_a_browser_listens_and_leaves_nothing_behind(start: Callable[..., Command]) -> None:
    command = start("serve", "--port", "0")
    url = command.wait_until_listening()
    line = command.read_until("Look")
    result = post(url, track())
    with urllib3.request("GET", f"{url}/page/updates", preload_content=False) as updates:
        first = next(iter(updates))
        seconds, output = command.press_ctrl_c()

    assert (line, first, result) == (f"Look  {url}/\n", b"retry: 1000\n", "delivered")
    assert seconds < 2
    assert (command.process.returncode, output.endswith("Stopped.\n")) == (130, True)
    assert (command.left_behind(), LOCAL_STACK_FILE.exists()) == ([], False)


def test_serve_leaves_nothing_behind_when_it_is_killed(start: Callable[..., Command]) -> None:
    command = start("serve", "--port", "0")
    post(command.wait_until_listening(), [track()])
    command.process.kill()

    wait_until(lambda: command.left_behind() == [])


def test_serve_sends_to_the_given_pagerduty_shows_no_secret_and_simulates_nothing(
    start: Callable[..., Command], sandbox: Sandbox
) -> None:
    command = start(
        "serve", "--port", "0", PAGERDUTY_URL=sandbox.plain_url, ROUTING_KEY=f"{KEY},{OTHER_KEY}", WEBHOOK_TOKEN=TOKEN
    )
    url = command.wait_until_listening()
    for n in range(8):
        post(url, track(properties={"dedupKey": f"incident-{n}"}), TOKEN)
    simulations = {"/page/storm": {"events": 100}, "/page/pagerduty": {"mode": "fails", "limit": 1}}
    statuses = [urllib3.request("POST", url + path, json=content).status for path, content in simulations.items()]
    _, output = command.press_ctrl_c()

    assert [received.event["routing_key"] in {KEY, OTHER_KEY} for received in sandbox.received] == [True] * 8
    assert [secret for secret in (KEY, OTHER_KEY, TOKEN) if secret in output] == []
    assert f"curl -i {url}/events -H 'Authorization: Bearer TOKEN'" in output
    assert statuses == [409, 409]

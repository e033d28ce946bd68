"""The commands of the local stack: what they take, what they show, and that they leave nothing behind."""

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
# A real PagerDuty, as far as the command line can tell.
PAGERDUTY: Final = "https://events.pagerduty.com"


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command in this process, with nothing about it in the environment but what is given."""

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
    """Serve nothing, and note with which options."""
    options: list[Options] = []

    monkeypatch.setattr(serve, "main", options.append)
    return options


@pytest.mark.parametrize(
    ("arguments", "environment", "options"),
    [
        ((), {}, Options(port=3000)),
        (
            ("--port", "0", "--rate-limit", "600", "--pagerduty-url", PAGERDUTY),
            {},
            Options(pagerduty_url=PAGERDUTY, rate_limit=600),
        ),
        (
            ("--token", TOKEN, "--service", f"default={KEY}", f"checkout={KEY},{OTHER_KEY}"),
            {},
            Options(port=3000, token=TOKEN, services={"default": KEY, "checkout": f"{KEY},{OTHER_KEY}"}),
        ),
        (
            (),
            {
                "PAGERDUTY_URL": PAGERDUTY,
                "ROUTING_KEY": f"{KEY} {OTHER_KEY}",
                "ROUTING_KEYS": f"checkout={KEY},{OTHER_KEY} payments={OTHER_KEY}",
                "WEBHOOK_TOKEN": TOKEN,
            },
            Options(
                port=3000,
                token=TOKEN,
                pagerduty_url=PAGERDUTY,
                services={
                    "default": f"{KEY} {OTHER_KEY}",
                    "checkout": f"{KEY},{OTHER_KEY}",
                    "payments": OTHER_KEY,
                },
            ),
        ),
        ((), {**SETTINGS, "PARAMETER_PREFIX": "/of-another-stack"}, Options(port=3000, settings=SETTINGS)),
        # As make exports what nobody has set.
        ((), dict.fromkeys(VARIABLES, ""), Options(port=3000)),
        (
            ("--service", f"default={OTHER_KEY}"),
            {"ROUTING_KEY": KEY},
            Options(port=3000, services={"default": OTHER_KEY}),
        ),
    ],
)
def test_serve_takes_its_options_from_the_command_line_and_the_environment(
    run: Callable[..., int],
    served: list[Options],
    arguments: tuple[str, ...],
    environment: dict[str, str],
    options: Options,
) -> None:
    assert (run("serve", *arguments, **environment), served) == (0, [options])


def test_serve_takes_options_from_a_file_which_needs_no_warning(
    run: Callable[..., int], served: list[Options], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "secrets"
    file.write_text(f"--token={TOKEN}\n--service=default={KEY}\n--service=checkout={OTHER_KEY}\n")
    run("serve", "--pagerduty-url", PAGERDUTY, f"@{file}")

    services = {"default": KEY, "checkout": OTHER_KEY}
    assert served == [Options(port=3000, token=TOKEN, services=services, pagerduty_url=PAGERDUTY)]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments", [("--service", f"default={KEY}"), (f"--service=default={KEY}",), ("--token", KEY)]
)
def test_a_secret_of_the_real_pagerduty_on_the_command_line_is_warned_of(
    run: Callable[..., int],
    served: list[Options],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    code = run("serve", "--pagerduty-url", PAGERDUTY, *arguments)

    assert (code, len(served)) == (0, 1)
    assert capsys.readouterr().err == (
        "warning: `ps` shows the secrets of this command line to everybody on this machine; "
        "`serve --help` tells how to give them\n"
    )


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("--service", f"default={KEY}"), {}),
        (("--pagerduty-url", PAGERDUTY), {"ROUTING_KEY": KEY, "WEBHOOK_TOKEN": TOKEN}),
    ],
    ids=["of the sandbox", "in the environment"],
)
def test_other_secrets_are_not_warned_of(
    run: Callable[..., int],
    served: list[Options],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    environment: dict[str, str],
) -> None:
    run("serve", *arguments, **environment)

    assert (len(served), capsys.readouterr().err) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("--token", "short"), {}, "argument --token: expected at least 16 characters\n"),
        ((), {"WEBHOOK_TOKEN": "short"}, "argument --token: expected at least 16 characters\n"),
        (("--service", KEY), {}, "argument --service: expected NAME=KEY with a name of A-Z a-z 0-9 _ . -\n"),
        (("--service", f"a b={KEY}"), {}, "argument --service: expected NAME=KEY with a name of A-Z a-z 0-9 _ . -\n"),
        (("--port", "99999"), {}, "argument --port: 99999: expected a port from 0 to 65535\n"),
        (("--rate-limit", "11"), {}, "argument --rate-limit: 11: expected 12 to 10000 calls\n"),
        (("--rate-limit", "10001"), {}, "argument --rate-limit: 10001: expected 12 to 10000 calls\n"),
        (
            ("--pagerduty-url", "events.pagerduty.com"),
            {},
            "argument --pagerduty-url: events.pagerduty.com: expected a URL such as https://events.pagerduty.com\n",
        ),
    ],
)
def test_serve_refuses_arguments_that_make_no_sense_and_shows_no_secret(
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    environment: dict[str, str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run("serve", *arguments, **environment)

    output = capsys.readouterr().err
    assert (exit_.value.code, output.endswith(message), KEY in output) == (2, True, False)


@pytest.mark.parametrize(
    ("command", "environment", "message"),
    [
        (
            "run",
            {"PAGERDUTY_URL": PAGERDUTY},
            "PAGERDUTY_URL needs ROUTING_KEY: the integration key of the service to page",
        ),
        ("run", {"ROUTING_KEYS": KEY}, "ROUTING_KEYS: expected NAME=KEY with a name of A-Z a-z 0-9 _ . -"),
        ("serve", {"ROUTING_KEYS": KEY}, "ROUTING_KEYS: expected NAME=KEY with a name of A-Z a-z 0-9 _ . -"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    command: str,
    environment: dict[str, str],
    message: str,
) -> None:
    assert (run(command, **environment), capsys.readouterr().err) == (2, f"error: {message}\n")


def test_serve_says_that_its_port_is_taken(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = run("serve", "--port", str(port))

    assert (code, capsys.readouterr().err) == (
        1,
        f"error: port {port} is taken; take another one: make serve PORT={port + 1}\n",
    )


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_run_refuses_a_file_that_is_no_event(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str
) -> None:
    file = tmp_path / "odd.json"
    file.write_text(content)

    assert run("run", str(file)) == 2
    assert capsys.readouterr().err.startswith(f"error: {file}: ")


def test_run_names_a_file_that_is_not_there_once(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert (run("run", "/nowhere/event.json"), capsys.readouterr().err) == (
        2,
        "error: /nowhere/event.json: No such file or directory\n",
    )


def test_run_fails_when_an_event_does_not_turn_out_as_expected(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    event = read_event(EVENTS / "alert-1-trigger.json")
    event["body"] = event["body"].replace('"trigger"', '"explode"')
    file = tmp_path / "alert-1-trigger.json"
    file.write_text(json.dumps(event))

    assert run("run", str(file)) == 1
    assert (
        "NOT AS EXPECTED  alert-1-trigger.json: expected 200 delivered, got 400 action_unknown"
        in capsys.readouterr().out
    )


def test_a_wrong_argument_is_answered_before_anything_large_is_loaded() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "local", "serve", "--port", "x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 -- our own command
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

    assert done.returncode == 2
    assert loaded & {"boto3", "moto", "samcli", "urllib3", "trustme"} == set()


def test_make_help_describes_every_command_and_every_variable() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE)
    variables = {
        *re.findall(r"^([A-Z]+) \?=", makefile, re.MULTILINE),
        "ENV",
        "FILES",
        "TEST_PAGE",
        "SECONDS",
        *VARIABLES,
    }
    command = ["make", "--no-print-directory", "help"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S603 -- ours
    described = [line.split()[0] for line in told.splitlines() if len(line.split()) > 1]

    assert sorted(described) == sorted([*commands, *variables])


@pytest.fixture
def make_venv(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Set up .venv in an empty checkout; return make's exit code and what is said."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "function").mkdir()
    for name in ("requirements-dev.txt", "function/requirements.txt"):
        (tmp_path / name).touch()

    def make_venv(python: str, **environment: str) -> tuple[int, str]:
        command = ["make", ".venv/.ready", f"PYTHON={python}"]
        done = subprocess.run(  # noqa: S603 -- ours
            command,
            cwd=tmp_path,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    return make_venv


def test_a_missing_venv_module_is_told(make_venv: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    code, output = make_venv(str(python))

    assert (code, "The venv module is missing." in output, "could not be made" in output) == (2, True, False)


def test_a_place_that_cannot_be_written_to_is_not_taken_for_a_missing_module(
    make_venv: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    # Root may write everywhere, but not below a file.
    (tmp_path / ".venv").touch()
    code, output = make_venv(sys.executable)

    assert (code, "The venv module is missing." in output, ".venv could not be made" in output) == (2, False, True)


def test_a_half_made_virtual_environment_is_made_anew_whatever_pip_is_set_to(
    make_venv: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    code, output = make_venv(sys.executable, PIP_USER="1", PIP_REQUIRE_VIRTUALENV="1")

    assert (code, (tmp_path / ".venv" / ".ready").exists()) == (0, True), output


# -- in processes of their own ---------------------------------------------------------------------------------------


class Command:
    """A command of the README in its own process, marked so that whatever it starts can be found."""

    def __init__(self, *arguments: str, module: str = "local", environment: Mapping[str, str]) -> None:
        self._mark = f"/nowhere/{uuid.uuid4()}"
        path = f"{os.environ['PATH']}:{self._mark}"
        changes = {**dict.fromkeys(VARIABLES, ""), "PATH": path, "PYTHONUNBUFFERED": "1", **environment}
        self.process = subprocess.Popen(  # noqa: S603 -- our own command
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ | changes,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, text: str) -> str:
        """Return the first line with the text in it, and all before."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if text in line:
                return "".join(lines)
        raise AssertionError(f"It ended without {text}: {lines}")

    def wait_until_listening(self) -> str:
        return self.read_until("Listening on ").rpartition("Listening on ")[2].strip()

    def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        """Send the signal, and return what it says until it ends."""
        assert self.process.stdout is not None
        self.process.send_signal(number)
        self.process.wait(timeout=20)
        # Not communicate(), which would miss what read_until() has in its buffer.
        return self.process.stdout.read()

    def press_ctrl_c(self) -> tuple[float, str]:
        """Send the signal as a terminal does, to its children too; return the seconds it took, and what it said."""
        began = time.monotonic()
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(timeout=60)
        seconds = time.monotonic() - began
        assert self.process.stdout is not None
        return seconds, self.process.stdout.read()

    def kill(self) -> None:
        """End it in any case; harmless when it has ended already."""
        self.process.kill()
        self.process.communicate()

    def left_behind(self) -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue  # It ended while we looked.
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


@dataclass(frozen=True)
class Serving:
    """A `serve` that several tests look at, and its URL."""

    command: Command
    url: str


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    """Lend one `serve` to the tests that only look; it found what an earlier version left behind."""
    for name in ("env.json", "stack.json"):
        (STATE / name).write_text("left behind by a stack of an earlier version")
        (STATE / name).chmod(0o644)
    command = Command("serve", "--port", "0", environment={})
    yield Serving(command, command.wait_until_listening())
    command.kill()


def post(url: str, content: object, token: str = LOCAL_TOKEN) -> str:
    response = urllib3.request("POST", f"{url}/events", json=content, headers={"X-Api-Key": token}, timeout=20)
    return str(response.json()["status"])


def test_run_shows_what_becomes_of_ones_own_events_by_the_settings_of_the_environment(
    start: Callable[..., Command], tmp_path: Path
) -> None:
    trigger = {"type": "track", "event": "Disk full", "properties": {"source": "db-1", "dedup_key": "disk", "n": 7}}
    refused = {"type": "track", "event": "Disk full", "properties": {"source": "db-1", "action": "reslove"}}
    one, many, batch = (tmp_path / f"{name}.json" for name in ("one", "many", "batch"))
    one.write_text(json.dumps(trigger))
    many.write_text(json.dumps([trigger, refused]))
    batch.write_text(json.dumps({"batch": [trigger]}))
    nothing = tmp_path / "nothing.json"
    nothing.write_text(json.dumps(trigger | {"properties": {"action": "resolve", "dedupKey": "no-such"}}))
    command = start("run", str(one), str(many), str(batch), str(nothing), SUMMARY_TEMPLATE="{event}: {properties.n}")
    output, _ = command.process.communicate(timeout=60)
    event = """\
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
    becomes = "Would send this alert event (trigger) to PagerDuty service default.\n"

    assert command.process.returncode == 0, output
    assert output.startswith(
        f"one.json: {becomes}{event}\n"
        f"many.json, event 1: {becomes}{event}"
        "many.json, event 2: properties.action: expected trigger, acknowledge or resolve, "
        'got "reslove"; not sent, since a misspelt resolve must not page\n\n'
        f"batch.json: {becomes}{event}\n"
    )
    rows = {row[0]: row[1:] for line in output.splitlines() if (row := re.split("  +", line)) and len(row) == 4}
    assert rows["one.json"] == ["200 delivered", "alert trigger", "triggered"]
    # What comes after several events goes through the queue, like them.
    assert rows["nothing.json"] == ["200 queued", "alert resolve (dropped: no incident is open)", "-"]


# The tests that only look come first: the others' stacks leave word of themselves in the same place.


def test_serve_shows_each_request_what_came_of_it_and_what_the_worker_does(serving: Serving) -> None:
    post(serving.url, track(messageId="m-1"))
    post(
        serving.url,
        [
            track(messageId="m-2", properties={"action": "resolve"}),
            7,
        ],
    )
    output = serving.command.read_until("  worker ")

    assert [line[10:] for line in output.splitlines() if line[2:3] == line[5:6] == ":"] == [
        "POST /events",
        "  PagerDuty  202 alert trigger disk-full",
        "  answer     200 delivered PagerDuty accepted the event",
        "POST /events",
        "  answer     200 queued 2 events: 1 queued, 1 rejected",
        "    event 1    queued disk-full",
        "    event 2    event_not_an_object event: expected an object, got 7",
        "  PagerDuty  202 alert resolve disk-full",
        "  worker     delivered resolve default disk-full m-2",
    ]


def test_serve_tells_sam_how_its_containers_reach_the_stack(serving: Serving) -> None:
    variables = json.loads((STATE / "env.json").read_text())

    urls = {name: urllib3.util.parse_url(value) for name, value in variables["ApiFunction"].items() if "URL" in name}

    assert variables["ApiFunction"] == variables["WorkerFunction"]
    assert {name: (url.scheme, url.host) for name, url in urls.items()} == dict.fromkeys(
        ("AWS_ENDPOINT_URL", "PAGERDUTY_URL", "QUEUE_URL", "DEAD_LETTER_QUEUE_URL"), ("http", "host.docker.internal")
    )
    assert variables["ApiFunction"].keys() - urls.keys() == {"FLOW_TABLE", "CALLS_PER_MINUTE"}
    assert variables["ApiFunction"]["CALLS_PER_MINUTE"] == "120"


def test_what_serve_writes_is_for_this_user_alone(serving: Serving) -> None:
    assert LOCAL_STACK_FILE.parent == STATE
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in STATE.glob("*.json")} == {
        "env.json": "0o600",
        "stack.json": "0o600",
    }


def test_the_doctor_finds_the_stack_that_serve_keeps_up_well(
    serving: Serving, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("doctor", "--stack", "local")
    findings = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1].strip()]

    shown = serving.command.read_until("401 ")

    assert (code, findings) == (0, ["ok"] * 8 + ["Nothing"])
    assert [line[10:] for line in shown.splitlines() if "POST" in line] == [
        "POST /events?preview=true  (make doctor)"
    ] * 2


def test_run_sends_every_event_file_and_all_turn_out_as_expected(start: Callable[..., Command]) -> None:
    command = start("run")
    output, _ = command.process.communicate(timeout=60)
    events, _, metrics = output.partition("metric  ")
    shown = {words[0]: words[1:] for words in map(str.split, metrics.splitlines()) if words}

    assert command.process.returncode == 0, output
    assert [line.split()[0] for line in events.splitlines()[2:10]] == list(EXPECTED)
    assert {name: shown[name][0] for name in ("Received", "Queued", "Delivered", "Ignored", "Rejected")} == {
        "Received": "10",
        "Queued": "3",
        "Delivered": "8",
        "Ignored": "1",
        "Rejected": "1",
    }
    assert " ".join(shown["Delivered"][1:]) == (
        "default acknowledge 1, default change 3, default resolve 2, default trigger 2"
    )
    # A line for each event, and another by the worker for each of the array's three.
    assert "(out of 13 lines of log in CloudWatch's embedded metric format)" in metrics
    assert "8 files sent to the PagerDuty sandbox: all as expected." in metrics
    assert command.left_behind() == []


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("local", ["run"]),
        ("chaos", ["--events", "2000"]),
        ("local.command", ["benchmarks"]),
        ("local.command", ["benchmarks.storm"]),
        ("local.command", ["benchmarks.storm_live"]),
        ("local.command", ["local.screenshot"]),
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


def test_the_doctor_ends_while_it_waits_for_aws(start: Callable[..., Command]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        keys = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "us-east-1"}
        command = start("doctor", AWS_ENDPOINT_URL=url, **keys)
        silent.settimeout(30)
        with silent.accept()[0]:
            seconds, output = command.press_ctrl_c()

    assert (command.process.returncode, output) == (130, "Stopped.\n")
    assert seconds < 2


def test_serve_ends_when_told_and_leaves_nothing_behind(start: Callable[..., Command]) -> None:
    command = start("serve", "--port", "0")
    result = post(command.wait_until_listening(), track())
    seconds, output = command.press_ctrl_c()

    assert result == "delivered"
    assert seconds < 2
    assert (command.process.returncode, output.endswith("Stopped.\n")) == (130, True)
    assert (command.left_behind(), LOCAL_STACK_FILE.exists()) == ([], False)


def test_serve_says_where_its_page_is_and_ends_while_a_browser_listens(start: Callable[..., Command]) -> None:
    command = start("serve", "--port", "0")
    url = command.wait_until_listening()
    line = command.read_until("Look")
    with urllib3.request("GET", f"{url}/page/updates", preload_content=False) as updates:
        first = next(iter(updates))
        output = command.end()

    assert (line, first) == (f"Look  {url}/\n", b"retry: 1000\n")
    assert (command.process.returncode, output.endswith("Stopped.\n")) == (130, True)
    assert command.left_behind() == []


def test_serve_ends_whichever_of_its_threads_takes_the_signal(start: Callable[..., Command]) -> None:
    command = start("serve", "--port", "0")
    command.wait_until_listening()
    pid = command.process.pid
    other = next(int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid)
    ctypes.CDLL(None).tgkill(pid, other, signal.SIGHUP)
    output, _ = command.process.communicate(timeout=20)

    assert (command.process.returncode, output.endswith("Stopped.\n")) == (130, True)


def test_serve_leaves_nothing_behind_when_it_is_killed(start: Callable[..., Command]) -> None:
    command = start("serve", "--port", "0")
    post(command.wait_until_listening(), [track()])
    command.end(signal.SIGKILL)

    wait_until(lambda: command.left_behind() == [])


def test_serve_sends_to_the_pagerduty_that_it_is_told_and_shows_no_secret(
    start: Callable[..., Command], sandbox: Sandbox
) -> None:
    command = start(
        "serve", "--port", "0", PAGERDUTY_URL=sandbox.plain_url, ROUTING_KEY=f"{KEY},{OTHER_KEY}", WEBHOOK_TOKEN=TOKEN
    )
    url = command.wait_until_listening()
    for n in range(8):
        post(url, track(properties={"dedupKey": f"incident-{n}"}), TOKEN)
    output = command.end()

    assert {received.event["routing_key"] for received in sandbox.received} == {KEY, OTHER_KEY}
    assert [secret for secret in (KEY, OTHER_KEY, TOKEN) if secret in output] == []
    assert f"curl -i {url}/events -H 'Authorization: Bearer SECRET'" in output


def test_nothing_is_played_with_the_real_pagerduty(start: Callable[..., Command], sandbox: Sandbox) -> None:
    command = start("serve", "--port", "0", PAGERDUTY_URL=sandbox.plain_url, ROUTING_KEY=KEY)
    url = command.wait_until_listening()
    wanted = {"/page/storm": {"events": 100}, "/page/pagerduty": {"mode": "fails", "limit": 1}}
    statuses = [urllib3.request("POST", url + path, json=content).status for path, content in wanted.items()]

    assert (statuses, sandbox.received) == ([409, 409], [])

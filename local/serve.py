"""`python -m local serve`: keep the endpoint up and show each event as it passes."""

import contextlib
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING

from local.docker import for_containers, reachable_from_containers
from local.observer import Observer
from local.options import DOCTOR, LOCAL_STACK_FILE, LOCAL_TOKEN, PREFIX, STATE, Options
from local.sandbox import Received
from local.stack import LocalStack
from local.terminal import painted, printable
from local.ui import Page

if TYPE_CHECKING:
    from flask import Request, Response

_EVENT = '{"type":"track","event":"Disk is full","properties":{"source":"db-1","dedupKey":"disk-full"}}'
_POLL_SECONDS = 0.2


def main(options: Options) -> None:
    """Serve until interrupted."""
    with (
        Page(options, _Terminal()) as stack,
        reachable_from_containers(stack.aws.url, *([stack.sandbox.url] if stack.sandbox else [])),
    ):
        try:
            _write_files(stack)
            _greet(stack)
            # Not signal.pause(): another thread may receive the signal, and this one would not wake up.
            while True:
                time.sleep(_POLL_SECONDS)
        finally:
            LOCAL_STACK_FILE.unlink(missing_ok=True)


def _greet(stack: LocalStack) -> None:
    options = stack.options
    pagerduty = options.pagerduty_url or f"the sandbox, {stack.sandbox.url if stack.sandbox else ''}"
    token = LOCAL_TOKEN if options.token == LOCAL_TOKEN else "TOKEN"
    print(
        f"Listening on {stack.url}\n"
        f"Page  {stack.url}/\n"
        f"  PagerDuty   {pagerduty}\n"
        f"  AWS         moto, {stack.aws.url}\n"
        f"  Queue       {stack.queue_url}\n"
        "\nOpen an incident:\n"
        f"  curl -i {stack.url}/events -H 'Authorization: Bearer {token}' \\\n"
        "    -H 'Content-Type: application/json' \\\n"
        f"    -d '{_EVENT}'\n"
        "\nEvents as they pass (Ctrl-C stops):\n",
        # One write, because the first request may arrive meanwhile.
        end="",
        flush=True,
    )


def _write_files(stack: LocalStack) -> None:
    """Write the variables for `sam local --env-vars`, and, for STACK=local, the outputs that a deployed stack has."""
    variables = {
        "AWS_ENDPOINT_URL": for_containers(stack.aws.url),
        # Containers do not know the sandbox's CA.
        "PAGERDUTY_URL": stack.options.pagerduty_url
        or for_containers(stack.sandbox.plain_url if stack.sandbox else ""),
        "QUEUE_URL": for_containers(stack.queue_url),
        "DEAD_LETTER_QUEUE_URL": for_containers(stack.dead_letter_queue_url),
        "FLOW_TABLE": stack.flow_table,
        "CALLS_PER_MINUTE": stack.settings["CALLS_PER_MINUTE"],
    }
    outputs = {
        "EventsUrl": f"{stack.url}/events",
        "WebhookTokenParameter": f"{PREFIX}/webhook-token",
        "RoutingKeyParameter": f"{PREFIX}/routing-keys/default",
        "QueueUrl": stack.queue_url,
        "DeadLetterQueueUrl": stack.dead_letter_queue_url,
        "FlowTableName": stack.flow_table,
    }
    contents = {
        STATE / "env.json": {"ApiFunction": variables, "WorkerFunction": variables},
        LOCAL_STACK_FILE: {"outputs": outputs, "aws": stack.aws.access},
    }
    for file, content in contents.items():
        # For this user only, because they give access to the secrets.
        file.parent.mkdir(exist_ok=True)
        file.touch(mode=0o600)
        file.chmod(0o600)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class _Terminal(Observer):
    """Shows the events as they pass."""

    def on_request(self, request: "Request") -> None:
        """Show the request."""
        sender = f"  ({DOCTOR})" if request.user_agent.string == DOCTOR else ""
        _show(f"{request.method} {request.full_path.rstrip('?')}{sender}")

    def on_answer(self, _: "Request", response: "Response") -> None:
        """Show the answer."""
        answer = response.get_json()
        words = " ".join(str(answer.get(name, "")) for name in ("code", "message")).strip()
        _show("  answer     ", words, status=response.status_code)

    def on_received(self, call: Received) -> None:
        """Show the call to PagerDuty, and why it was refused."""
        words = [call.kind, call.event.get("event_action", ""), call.event.get("dedup_key", "")]
        reasons = f"  {'; '.join(call.errors)}" if call.errors else ""
        _show("  PagerDuty  ", " ".join(map(str, words)).rstrip() + reasons, status=call.status)

    def on_log(self, line: str) -> None:
        """Show what no answer reports: the worker's results, and the functions' errors."""
        if '"receive_count":' in line:
            with contextlib.suppress(ValueError):  # A killed process leaves an incomplete line.
                content = json.loads(line)
                names = ("status", "code", "event_type", "pagerduty_service", "dedup_key", "message_id")
                words = dict.fromkeys(str(content[name]) for name in names if name in content)
                _show(f"  worker     {' '.join(words)}")
        elif '"level":"ERROR"' in line or "[ERROR]" in line or "Traceback" in line:
            _show(f"  log        {line}")


def _show(heading: str, rest: str = "", status: int = 0) -> None:
    """Print a line with the time; the status, if any, stands in colour between `heading` and `rest`."""
    colour = f"{painted(str(status), 'green' if status // 100 == 2 else 'red')} " if status else ""  # noqa: PLR2004 -- 2xx
    # One write, so that no other thread's output comes between.
    print(
        f"{datetime.now().astimezone():%H:%M:%S}  {printable(heading)}{colour}{printable(rest)}\n", end="", flush=True
    )

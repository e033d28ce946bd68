"""`python -m local serve`: keeps the endpoint up, and shows each event as it passes."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local.docker import for_containers, reachable_from_containers
from local.options import DOCTOR, LOCAL_STACK_FILE, LOCAL_TOKEN, PREFIX, STATE, Options
from local.runtime import emulator
from local.sandbox import Received
from local.stack import LocalStack
from local.terminal import painted
from local.ui import Page

if TYPE_CHECKING:
    from flask import Request, Response

_EVENT = '{"type":"track","event":"Disk is full","properties":{"source":"db-1","dedupKey":"disk-full"}}'
_ENVIRONMENT_FILE = STATE / "env.json"
_LOOK_UP_SECONDS = 0.2
# Of a batch of a thousand events, nobody wants to see them all.
_SHOWN_RESULTS = 20


def main(options: Options) -> None:
    """Serve until interrupted."""
    with (
        Page(
            options,
            on_request=_show_request,
            on_answer=_show_answer,
            on_received=_show_received,
            on_log=_show_log,
        ) as stack,
        reachable_from_containers(stack.aws.url, *([stack.sandbox.url] if stack.sandbox else [])),
    ):
        try:
            _write_environment_file(stack)
            _write_stack_file(stack)
            _greet(stack)
            # Not signal.pause(): the system may hand the signal to any thread, and then this one would sleep on.
            while True:
                time.sleep(_LOOK_UP_SECONDS)
        finally:
            LOCAL_STACK_FILE.unlink(missing_ok=True)


def _greet(stack: LocalStack) -> None:
    options = stack.options
    pagerduty = options.pagerduty_url or f"the sandbox, {stack.sandbox.url if stack.sandbox else ''}"
    token = LOCAL_TOKEN if options.token == LOCAL_TOKEN else "SECRET"
    lambda_runtime = "AWS's runtime interface emulator" if emulator() else "a stand-in: AWS's emulator needs Linux"
    print(
        f"Listening on {stack.url}\n"
        f"Look  {stack.url}/\n"
        f"  PagerDuty   {pagerduty}\n"
        f"  AWS         moto, {stack.aws.url}\n"
        f"  Lambda      {lambda_runtime}\n"
        f"  Workers     {stack.workers} at once, as this machine bears; on AWS up to {stack.queue_concurrency}\n"
        f"  Queue       {stack.queue_url}\n"
        f"  Dead        {stack.dead_letter_queue_url}\n"
        "\nOpen an incident:\n"
        f"  curl -i {stack.url}/events -H 'Authorization: Bearer {token}' \\\n"
        "    -H 'Content-Type: application/json' \\\n"
        f"    -d '{_EVENT}'\n"
        "\nEvents as they pass (Ctrl-C stops):\n",
        # In one piece with its end: the first request may come meanwhile.
        end="",
        flush=True,
    )


def _write_environment_file(stack: LocalStack) -> None:
    """Write what `sam local --env-vars` needs so that its containers use this stack's AWS and PagerDuty."""
    pagerduty_url = _pagerduty_url(stack)
    variables = {
        "AWS_ENDPOINT_URL": for_containers(stack.aws.url),
        "PAGERDUTY_URL": for_containers(pagerduty_url) if stack.sandbox else pagerduty_url,
        "QUEUE_URL": for_containers(stack.queue_url),
        "DEAD_LETTER_QUEUE_URL": for_containers(stack.dead_letter_queue_url),
        "FLOW_TABLE": stack.flow_table,
        "CALLS_PER_MINUTE": stack.settings["CALLS_PER_MINUTE"],
    }
    _write_for_us_alone(_ENVIRONMENT_FILE, {"ApiFunction": variables, "WorkerFunction": variables})


def _write_stack_file(stack: LocalStack) -> None:
    """Write what `make doctor STACK=local` has to know: what a deployed stack would tell by its outputs."""
    outputs = {
        "EventsUrl": f"{stack.url}/events",
        "WebhookTokenParameter": f"{PREFIX}/webhook-token",
        "RoutingKeyParameter": f"{PREFIX}/routing-keys/default",
        "PagerDutyUrl": _pagerduty_url(stack),
        "QueueUrl": stack.queue_url,
        "DeadLetterQueueUrl": stack.dead_letter_queue_url,
        "FlowTableName": stack.flow_table,
    }
    _write_for_us_alone(LOCAL_STACK_FILE, {"outputs": outputs, "aws": stack.aws.access})


def _write_for_us_alone(file: Path, content: object) -> None:
    """Write JSON that no other user of this machine may read: it tells how to get at the secrets."""
    file.parent.mkdir(exist_ok=True)
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _pagerduty_url(stack: LocalStack) -> str:
    """Tell where PagerDuty is for other processes, which do not know the sandbox's CA."""
    return stack.options.pagerduty_url or (stack.sandbox.plain_url if stack.sandbox else "")


def _show_request(request: "Request") -> None:
    sender = f"  ({DOCTOR})" if request.user_agent.string == DOCTOR else ""
    _say(f"{request.method} {request.full_path.rstrip('?')}{sender}")


def _show_answer(_: "Request", response: "Response") -> None:
    try:
        answer = json.loads(response.get_data())
    except ValueError:
        answer = {}
    words = " ".join(str(answer.get(name, "")) for name in ("code", "message")).strip()
    lines = [f"  answer     {_status(response.status_code)} {words}"]
    results = answer.get("results", [])
    lines += [
        f"    event {n:<3}  {_event_in_short(result)}" for n, result in enumerate(results[:_SHOWN_RESULTS], start=1)
    ]
    if len(results) > _SHOWN_RESULTS:
        lines.append(f"    and {len(results) - _SHOWN_RESULTS} more")
    _say(*lines)


def _event_in_short(result: dict[str, Any]) -> str:
    """Tell what became of one event of several: why, when it was not taken."""
    words = [result.get("code", ""), result.get("dedup_key", "")]
    if result.get("status") in ("rejected", "deferred"):
        words.append(result.get("message", ""))
    return " ".join(str(word) for word in words if word)


def _show_received(call: Received) -> None:
    action = call.event.get("event_action", "")
    key = call.event.get("dedup_key", "")
    reasons = f"  {'; '.join(call.errors)}" if call.errors else ""
    _say(f"  PagerDuty  {_status(call.status)} {call.kind} {action} {key}".rstrip() + reasons)


def _status(status: int) -> str:
    return painted(str(status), "green" if status // 100 == 2 else "red")  # noqa: PLR2004 -- 2xx


def _show_log(line: str) -> None:
    """Show what no answer tells: what became of an event of the queue, and the functions' own errors."""
    try:
        content = json.loads(line)
    except ValueError:
        content = {}
    if isinstance(content, dict) and "receive_count" in content:
        names = ("status", "code", "event_type", "pagerduty_service", "dedup_key", "message_id")
        words = dict.fromkeys(str(content[name]) for name in names if name in content)
        _say(f"  worker     {' '.join(words)}")
    elif '"level":"ERROR"' in line or "[ERROR]" in line or "Traceback" in line:
        _say(f"  log        {line}")


def _say(*lines: str) -> None:
    now = f"{datetime.now().astimezone():%H:%M:%S}"
    # In one piece, ends included, so that no other thread's lines come between.
    print("".join(f"{now}  {line}\n" for line in lines), end="", flush=True)

"""The local stack's command line: `python -m local run`, `serve`, `doctor` and `dead-letters`."""

import errno
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from local import command
from local.options import LOCAL, LOCAL_TOKEN, MIN_TOKEN_LENGTH, RATE_LIMIT, SERVICE, Options, settings_of_environment

_SETTINGS = "The functions' settings, such as DEFAULT_SEVERITY, are read from the environment: see docs/settings.md."


def main() -> int:
    """Run the command; return its exit code: 0 success, 1 a result that was not expected, 2 wrong usage."""
    try:
        return int(cli(prog_name="python -m local", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:  # Ctrl-D at a question
        return 1


def _check_token(_: click.Context, __: click.Parameter, token: str) -> str:
    if len(token) >= MIN_TOKEN_LENGTH:
        return token
    raise click.BadParameter(f"expected at least {MIN_TOKEN_LENGTH} characters")


def _parse_services(_: object, __: object, pairs: Sequence[str]) -> dict[str, str]:
    services = {}
    for pair in pairs:
        name, _separator, key = pair.partition("=")
        if not (SERVICE.fullmatch(name) and key):
            raise click.BadParameter("expected NAME=KEY with a name of A-Z a-z 0-9 _ . -")
        services[name] = key
    return services


def _services_of_environment() -> dict[str, str]:
    key, more = os.environ.get("ROUTING_KEY"), os.environ.get("ROUTING_KEYS", "")
    return ({"default": key} if key else {}) | _parse_services(None, None, more.split())


@click.group(help=__doc__, context_settings={"max_content_width": 120})
def cli() -> None:
    """Hold the commands."""


@cli.command(
    epilog="With PAGERDUTY_URL in the environment, and ROUTING_KEY or ROUTING_KEYS as for `serve`, the events go to "
    f"the real PagerDuty. {_SETTINGS}"
)
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(exists=True, path_type=Path))
def run(files: Sequence[Path]) -> int:
    """Send events through the local stack and show the results.

    A FILE holds an API Gateway event, or what RudderStack sends: an event, an array of events, or a batch; or an event
    in each line. It can be a folder with *.json and *.ndjson files. Without FILE, events/ is sent.
    """
    url, services = os.environ.get("PAGERDUTY_URL") or None, _services_of_environment()
    if url and "default" not in services:
        raise click.UsageError("PAGERDUTY_URL needs ROUTING_KEY: the integration key of the service to page")
    from local.run import main as send  # noqa: PLC0415 -- takes a second, which would delay a message about usage

    return send(Options(pagerduty_url=url, services=services, settings=settings_of_environment()), files)


@cli.command(
    epilog="`ps` shows command lines to everybody on this machine. Give real secrets in the environment: ROUTING_KEY "
    'is the key of service `default`, ROUTING_KEYS="NAME=KEY NAME=KEY" are those of others, and WEBHOOK_TOKEN is the '
    f"token. {_SETTINGS}"
)
@click.option("--port", type=click.IntRange(0, 65535), default=3000, show_default=True, help="0: the system picks one.")
@click.option("--pagerduty-url", metavar="URL", envvar="PAGERDUTY_URL", help="By default the sandbox's.")
@click.option(
    "--service",
    "services",
    metavar="NAME=KEY...",
    multiple=True,
    callback=_parse_services,
    help="A PagerDuty service, and its routing keys separated by commas; `default` is that of the plain routes.",
)
@click.option(
    "--token",
    envvar="WEBHOOK_TOKEN",
    default=LOCAL_TOKEN,
    callback=_check_token,
    help=f"The token that callers present, at least {MIN_TOKEN_LENGTH} characters; by default a public one.",
)
@click.option(
    "--rate-limit",
    type=click.IntRange(min=1),
    default=RATE_LIMIT,
    show_default=True,
    help="Calls a minute and routing key that the sandbox accepts; CALLS_PER_MINUTE of the functions.",
)
@click.argument("more_services", metavar="", nargs=-1, callback=_parse_services)
def serve(  # noqa: PLR0913 -- one for each option
    *,
    port: int,
    pagerduty_url: str | None,
    services: dict[str, str],
    token: str,
    rate_limit: int,
    more_services: dict[str, str],
) -> None:
    """Keep the endpoint up until stopped."""
    services = _services_of_environment() | services | more_services
    from local import serve  # noqa: PLC0415 -- as above

    try:
        serve.main(Options(port, token, services, pagerduty_url or None, rate_limit, settings_of_environment()))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise click.ClickException(f"port {port} is in use; choose another: make serve PORT={port + 1}") from None


# The default is the name in samconfig.toml.
_stack = click.option(
    "--stack", default="rudderstack-pagerduty", show_default=True, help=f"{LOCAL}: the stack of `make serve`."
)
_DONE = {"read": "read", "redrive": "redriven", "discard": "discarded"}
_OUTPUTS = ("QueueUrl", "DeadLetterQueueUrl", "FlowTableName")
_PERMISSIONS = {"SendMessage": "sqs:SendMessage on the queue", "UpdateItem": "dynamodb:UpdateItem on the table"}
_USES = "Uses your AWS credentials and region (AWS_PROFILE, AWS_DEFAULT_REGION)."


@cli.command(epilog=_USES)
@_stack
@click.option("--test-page", type=click.Choice(["yes"]), help="Also send one alert of severity info, and resolve it.")
def doctor(stack: str, test_page: str | None) -> int:
    """Check a deployed stack from the outside and say what to fix. Without --test-page, nobody is paged."""
    from local import doctor  # noqa: PLC0415 -- as above

    return doctor.main(stack, test_page=test_page == "yes")


@cli.command("dead-letters", epilog=_USES)
@_stack
@click.option("--redrive", is_flag=True, help="Move them back to the queue, without a question.")
@click.option("--discard", is_flag=True, help="Delete them, without a question.")
def list_dead_letters(stack: str, *, redrive: bool, discard: bool) -> None:
    """List the dead letters of a stack; on a terminal, ask whether to redrive or discard them."""
    if redrive and discard:
        raise click.UsageError("--redrive or --discard, not both")
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 -- as above

    from local import dead_letters, doctor, terminal  # noqa: PLC0415

    found, finding = doctor.find(stack, _OUTPUTS)
    if found is None:
        raise click.ClickException(f"{finding.what}\n{finding.advice}")
    sqs, dynamodb = found.client("sqs"), found.client("dynamodb")
    letters = dead_letters.DeadLetters(sqs, dynamodb, *(found.outputs[name] for name in _OUTPUTS))
    action = "redrive" if redrive else "discard" if discard else "read"
    try:
        with terminal.progress("Reading the dead letters"):
            listed = letters.read()
        if not listed:
            print("No dead letters.")
            return
        groups = Counter(each["group"] for each in listed)
        cut = {group for group, number in groups.items() if number == dead_letters.MAX_MESSAGES}
        _print_dead_letters(listed, "" if not cut else "SQS shows ten of an incident; there may be more. ")
        if action == "read" and sys.stdin.isatty() and sys.stdout.isatty():
            answers = click.Choice(["redrive", "discard", "leave"])
            action = click.prompt(
                "Redrive, discard, or leave them?", "leave", type=answers, show_choices=False, prompt_suffix=" "
            )
        ids = cut.union(each["id"] for each in listed)
        if action in {"redrive", "discard"}:
            with terminal.progress(f"{terminal.counted(len(listed), 'dead letter')} to be {_DONE[action]}"):
                number = letters.redrive(ids) if action == "redrive" else letters.discard(ids)
            print(f"{terminal.counted(number, 'dead letter')} {_DONE[action]}.")
    except (BotoCoreError, ClientError) as error:
        raise click.ClickException(f"not all dead letters were {_DONE[action]}, because {_reason(error)}") from None


def _reason(error: Any) -> str:
    """Return which call to AWS failed, and what to check."""
    if not hasattr(error, "operation_name"):  # Only a ClientError has it.
        return f"a call to AWS failed ({type(error).__name__}): check your network, credentials and region"
    call, code = error.operation_name.removesuffix("Batch"), error.response["Error"]["Code"]
    permission = _PERMISSIONS.get(call, f"sqs:{call} on the dead-letter queue")
    return f"{call} failed ({code}): check your credentials and region, and that you have the permission {permission}"


def _print_dead_letters(letters: Sequence[Mapping[str, Any]], more: str) -> None:
    from local.terminal import counted, printable  # noqa: PLC0415 -- as above

    for each in letters:
        since = f"{datetime.fromtimestamp(each['since']).astimezone():%Y-%m-%d %H:%M:%S}"
        words = [since, *(each[name] for name in ("service", "event_type", "dedup_key", "title"))]
        print(printable("  ".join(filter(None, words))))
        print(printable(f"    {each['code']}: {each['reason']}" if each["code"] else f"    {each['reason']}"))
    triggers = counted(sum(each["event_type"] == "trigger" for each in letters), "trigger")
    print(f"\n{counted(len(letters), 'dead letter')} ({triggers}). {more}", end="")
    print("A redriven trigger opens its incident again, if that was resolved since.")


if __name__ == "__main__":
    sys.exit(command.run(main))

"""The local stack's command line: `python -m local run`, `serve`, `doctor` and `dead-letters`."""

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from local import command
from local.options import LOCAL, LOCAL_TOKEN, MIN_TOKEN_LENGTH, RATE_LIMIT, SERVICE, Options, settings_of_environment

_SETTINGS = "The environment has the mapping's settings, such as DEFAULT_SEVERITY, and MERGE_REPEATED_TRIGGERS."


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


# The exit code is what a command returns: 0 success, 1 a result that was not expected; 2 is wrong usage.
@click.group(help=__doc__, context_settings={"max_content_width": 120}, result_callback=sys.exit)
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
_USES = "Uses your AWS credentials and region (AWS_PROFILE, AWS_DEFAULT_REGION)."


@cli.command(epilog=_USES)
@_stack
@click.option("--test-page", type=click.Choice(["yes"]), help="Also send one alert of severity info, and resolve it.")
def doctor(stack: str, test_page: str | None) -> int:
    """Check a deployed stack from the outside and say what to fix. Without --test-page, nobody is paged."""
    from local import doctor  # noqa: PLC0415 -- as above

    return doctor.main(stack, test_page=test_page == "yes")


@cli.command(epilog=_USES)
@_stack
@click.option(
    "--action", type=click.Choice(["redrive", "discard"]), help="Redrive or discard all of them, without asking."
)
def dead_letters(stack: str, action: str | None) -> None:
    """List the dead letters of a stack; on a terminal, ask whether to redrive or discard them."""
    from local import dead_letters  # noqa: PLC0415 -- as above

    dead_letters.main(stack, action or "leave")


if __name__ == "__main__":
    sys.exit(command.run(lambda: cli(prog_name="python -m local")))

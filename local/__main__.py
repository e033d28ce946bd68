"""The command line of the local stack: `python -m local run`, `serve` and `doctor`."""

import argparse
import errno
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from local.command import run
from local.options import (
    LOCAL,
    LOCAL_TOKEN,
    MAX_CALLS_PER_MINUTE,
    MIN_CALLS_PER_MINUTE,
    MIN_SECRET_LENGTH,
    RATE_LIMIT,
    SERVICE,
    Options,
    settings_of_environment,
)

# As in samconfig.toml.
_STACK = "rudderstack-pagerduty"
_LAST_PORT = 65535
_SETTINGS = "The environment also has the functions' settings, such as DEFAULT_SEVERITY: see docs/settings.md."


def main() -> int:
    """Run the command of the command line; return its exit code: 0 all well, 1 not as expected, 2 called wrongly."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.command(arguments))
    except argparse.ArgumentTypeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            another = arguments.port % _LAST_PORT + 1
            print(
                f"error: port {arguments.port} is taken; take another one: make serve PORT={another}", file=sys.stderr
            )
        else:
            print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run_parser = commands.add_parser(
        "run",
        help="send sample events through the local stack and show what PagerDuty received",
        epilog="With PAGERDUTY_URL in the environment, and ROUTING_KEY or ROUTING_KEYS as for `serve`, the same goes "
        f"to the real PagerDuty. {_SETTINGS}",
    )
    run_parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="an API Gateway event, or what RudderStack sends: an event, an array of them, or a batch; "
        "default: every file of events/",
    )
    run_parser.set_defaults(command=_run)

    serve_parser = commands.add_parser(
        "serve",
        help="keep the endpoint up until stopped",
        epilog="`ps` shows a command line to everybody on this machine, so real secrets come from the environment: "
        "ROUTING_KEY is the key of service `default`, ROUTING_KEYS are more, as NAME=KEY NAME=KEY, and WEBHOOK_TOKEN "
        "is the callers' secret. Or they come from @FILE, a file with one option a line such as --service=default=KEY. "
        f"{_SETTINGS}",
        fromfile_prefix_chars="@",
        allow_abbrev=False,
    )
    serve_parser.add_argument(
        "--port",
        type=_port,
        default=3000,
        help="where to listen on this machine; default: 3000; 0: the system picks one",
    )
    serve_parser.add_argument(
        "--pagerduty-url",
        type=_pagerduty_url,
        default=os.environ.get("PAGERDUTY_URL") or None,
        metavar="URL",
        help="where events are sent; default: PAGERDUTY_URL of the environment, otherwise the sandbox",
    )
    serve_parser.add_argument(
        "--service",
        type=_service,
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=KEY",
        help="a PagerDuty service and its routing key, or several separated by commas; `default` is the service of the "
        "plain routes. For keys of the sandbox; see below for real ones",
    )
    serve_parser.add_argument(
        "--token",
        type=_token,
        default=os.environ.get("WEBHOOK_TOKEN") or LOCAL_TOKEN,
        help="the shared secret of the callers, at least 16 characters; default: WEBHOOK_TOKEN of the environment, "
        "otherwise one that everybody knows. See below for a real one",
    )
    serve_parser.add_argument(
        "--rate-limit",
        type=_rate_limit,
        default=RATE_LIMIT,
        metavar="N",
        help="calls that the sandbox accepts a minute and routing key, and CALLS_PER_MINUTE of the functions; "
        "default: PagerDuty's %(default)s",
    )
    serve_parser.set_defaults(command=_serve)

    doctor_parser = commands.add_parser(
        "doctor",
        help="look at a deployed stack from the outside, and say what has to be mended; pages nobody unless asked to",
        epilog="Uses your AWS credentials and region (AWS_PROFILE, AWS_DEFAULT_REGION).",
    )
    doctor_parser.add_argument(
        "--stack",
        default=_STACK,
        metavar="NAME",
        help=f"the stack's name; default: {_STACK}; `{LOCAL}`: the one that `make serve` keeps up",
    )
    doctor_parser.add_argument(
        "--test-page",
        choices=["yes"],
        help="`yes`: also send one alert of severity info through the stack to service `default`, and resolve it",
    )
    doctor_parser.set_defaults(command=_doctor)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    url, services = os.environ.get("PAGERDUTY_URL") or None, _services_of_environment()
    if url and "default" not in services:
        raise argparse.ArgumentTypeError("PAGERDUTY_URL needs ROUTING_KEY: the integration key of the service to page")
    from local.run import main as send  # noqa: PLC0415 -- takes a second, for which nobody who mistyped should have to wait

    options = Options(pagerduty_url=url, services=services, settings=settings_of_environment())
    return send(options, arguments.files)


def _serve(arguments: argparse.Namespace) -> int:
    if arguments.pagerduty_url and any(given.startswith(("--service", "--token")) for given in sys.argv):
        print(
            "warning: `ps` shows the secrets of this command line to everybody on this machine; "
            "`serve --help` tells how to give them",
            file=sys.stderr,
        )
    options = Options(
        port=arguments.port,
        token=arguments.token,
        services=_services_of_environment() | dict(arguments.service),
        pagerduty_url=arguments.pagerduty_url,
        rate_limit=arguments.rate_limit,
        settings=settings_of_environment(),
    )
    from local import serve  # noqa: PLC0415 -- as above

    serve.main(options)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from local import doctor  # noqa: PLC0415 -- as above

    return doctor.main(arguments.stack, test_page=arguments.test_page == "yes")


def _services_of_environment() -> dict[str, str]:
    """Read the PagerDuty services and their routing keys. Raises ArgumentTypeError."""
    key = os.environ.get("ROUTING_KEY")
    services = {"default": key} if key else {}
    try:
        return services | dict(_service(word) for word in os.environ.get("ROUTING_KEYS", "").split())
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"ROUTING_KEYS: {error}") from None


def _port(text: str) -> int:
    if text.isdecimal() and int(text) <= _LAST_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text}: expected a port from 0 to {_LAST_PORT}")


def _rate_limit(text: str) -> int:
    if text.isdecimal() and MIN_CALLS_PER_MINUTE <= int(text) <= MAX_CALLS_PER_MINUTE:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text}: expected {MIN_CALLS_PER_MINUTE} to {MAX_CALLS_PER_MINUTE} calls")


def _pagerduty_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme in {"http", "https"} and parts.hostname:
        return text
    raise argparse.ArgumentTypeError(f"{text}: expected a URL such as https://events.pagerduty.com")


def _service(text: str) -> tuple[str, str]:
    name, _, key = text.partition("=")
    if SERVICE.fullmatch(name) and key:
        return name, key
    raise argparse.ArgumentTypeError("expected NAME=KEY with a name of A-Z a-z 0-9 _ . -")


def _token(text: str) -> str:
    if len(text) >= MIN_SECRET_LENGTH:
        return text
    raise argparse.ArgumentTypeError(f"expected at least {MIN_SECRET_LENGTH} characters")


if __name__ == "__main__":
    sys.exit(run(main))

"""The page of `make serve`: try an event, and see the response and the incident, with the real stack behind it.

It is served on the API's port, from this machine to this machine: `local.server` turns away what another page sends.
What an event says reaches the page as data and is shown as text; the content security policy lets nothing else run.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from flask import Flask, Response, abort, jsonify, request
from samcli.yamlhelper import yaml_parse

from local.options import MAPPING_SETTINGS, RATE_LIMIT, Options
from local.resources import TEMPLATE
from local.sandbox import Fault, Received, Sandbox
from local.stack import LocalStack
from local.ui.samples import page, samples, storm
from local.ui.watch import SHOWN_INCIDENTS, Storm, Watch

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_FILES: Final = Path(__file__).parent
_TYPES: Final = {"page.js": "text/javascript", "page.css": "text/css"}
_HEADERS: Final = {
    # Images are those of events: only what an event names is ever loaded from elsewhere, when somebody opens it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src https: 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_MAX_STORM: Final = 5_000
# Critical events while a storm lasts, and the seconds between two of them.
_PAGES: Final = 20
_PAGE_SECONDS: Final = 5.0
_MAX_BODY: Final = 8 * 1024 * 1024
# Seconds between two looks at what has changed, and until a browser that lost us comes again.
_LOOK_SECONDS: Final = 0.15
_COME_AGAIN_MILLISECONDS: Final = 1_000

MISBEHAVIOUR: Final[Mapping[str, Fault | None]] = {
    "works": None,
    "limits": None,
    "fails": Fault.answer(HTTPStatus.SERVICE_UNAVAILABLE),
    "silent": Fault(takes_effect=False, reply=b""),
    "refuses the key": None,
    "refuses events": Fault.answer(
        HTTPStatus.BAD_REQUEST,
        {"status": "invalid event", "message": "Event object is invalid", "errors": ["Told to refuse every event"]},
    ),
}


class Page:
    """The local stack with the page in front of its API, as a context manager; see LocalStack for the arguments."""

    def __init__(
        self,
        options: Options | None = None,
        *,
        on_received: Callable[[Received], None] | None = None,
        on_log: Callable[[str], None] | None = None,
        **more: Any,
    ) -> None:
        self._watch = Watch()
        self._stopping = threading.Event()
        self._mode, self._limit = "works", 0
        self._storms = 0

        def received(call: Received) -> None:
            self._watch.on_received(call)
            if on_received:
                on_received(call)

        def log(line: str) -> None:
            self._watch.on_log(line)
            if on_log:
                on_log(line)

        self.stack = LocalStack(options, on_received=received, on_log=log, middleware=self._middleware, **more)
        self._application = self._routes()

    def __enter__(self) -> LocalStack:
        self._watch.begin(self.stack)
        return self.stack.__enter__()

    def __exit__(self, *reason: object) -> None:
        self._stopping.set()
        self.stack.__exit__(*reason)

    def _middleware(self, api: "WSGIApplication") -> "WSGIApplication":
        def choose(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            is_ours = path in {"/", "/favicon.ico"} or path.startswith("/page/")
            return (self._application if is_ours else api)(environ, start_response)

        return choose

    def _routes(self) -> Flask:
        application = Flask(__name__, static_folder=None)
        application.config["MAX_CONTENT_LENGTH"] = _MAX_BODY
        application.json.sort_keys = False  # type: ignore[attr-defined]  # of the provider that Flask has by default

        @application.before_request
        def only_json() -> None:
            # Another page can send anything but this without asking first.
            if request.method == "POST" and not request.is_json:
                abort(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)

        @application.after_request
        def add_headers(response: Response) -> Response:
            response.headers.update(_HEADERS)
            return response

        for rule, view in {
            "/": lambda: _file("index.html", "text/html"),
            "/favicon.ico": lambda: Response(status=HTTPStatus.NO_CONTENT),
            "/page/start": self._start,
            "/page/updates": lambda: Response(self._updates(), mimetype="text/event-stream"),
            **{f"/page/{name}": _file_of(name, kind) for name, kind in _TYPES.items()},
        }.items():
            application.add_url_rule(rule, rule, view)
        for rule, view in {
            "/page/try": self._try,
            "/page/pagerduty": self._set_pagerduty,
            "/page/storm": self._begin_storm,
        }.items():
            application.add_url_rule(rule, rule, view, methods=["POST"])
        return application

    # -- what the page asks for ----------------------------------------------------------------------------------------

    def _start(self) -> Response:
        """Tell what does not change while the stack runs."""
        options = self.stack.options
        return jsonify(
            samples=samples(),
            services=list(options.routing_keys),
            settings=settings(self.stack.settings),
            is_real=options.pagerduty_url is not None,
            rate_limit=options.rate_limit or RATE_LIMIT,
            shown_incidents=SHOWN_INCIDENTS,
        )

    def _try(self) -> Response:
        """Preview a body, and send it when asked to; both answers come back as they are."""
        with _refusing_others() as wanted:
            path = str(wanted["path"])
            if path == "/events" and wanted["service"] != "default":
                path = f"/events/{quote(str(wanted['service']), safe='')}"
            body = str(wanted["body"]).encode("utf-8", "replace")
            chosen = {name: str(value) for name, value in wanted["settings"].items() if name in MAPPING_SETTINGS}
            send = bool(wanted["send"])
        started = time.monotonic()
        preview = self._answer(f"{path}?preview=true", body, chosen)
        answer = None
        if send:
            started = time.monotonic()
            answer = self._answer(path, body, chosen)
        return jsonify(preview=preview, answer=answer, path=path, seconds=round(time.monotonic() - started, 3))

    def _answer(self, path: str, body: bytes, chosen: Mapping[str, str]) -> dict[str, Any]:
        status, content = self.stack.post(path, body, chosen)
        return {"status": status, "content": json.loads(content)}

    def _set_pagerduty(self) -> Response:
        """Simulate a failure of PagerDuty, or let it work again."""
        with _refusing_others() as wanted:
            mode, limit = str(wanted["mode"]), int(wanted["limit"])
            fault = MISBEHAVIOUR[mode]
            if limit < 1:
                raise ValueError(limit)
        sandbox = self._sandbox()
        sandbox.on_call = (lambda _: fault) if fault else None
        sandbox.rate_limit = limit if mode == "limits" else self.stack.options.rate_limit
        sandbox.known_keys = set() if mode == "refuses the key" else None
        self._mode, self._limit = mode, limit
        return jsonify(mode=mode)

    def _begin_storm(self) -> Response:
        """Let a storm loose; its requests are made one after the other while this has been answered already."""
        with _refusing_others() as wanted:
            size = int(wanted["events"])
            if not 1 <= size <= _MAX_STORM:
                raise ValueError(size)
        self._sandbox()
        self._storms += 1
        begun = Storm(f"storm-{self._storms}-", {"pages": _PAGES, "others": size})
        self._watch.storm = begun
        threading.Thread(target=self._send_storm, args=(begun,), name="storm", daemon=True).start()
        return jsonify(events=size)

    def _send_storm(self, begun: Storm) -> None:
        for batch in storm(begun.name, begun.size["others"]):
            self._send_batch(begun, batch)
        for number in range(1, _PAGES + 1):
            # An array, since that goes through the queue.
            self._send_batch(begun, [page(begun.name, number)])
            self._stopping.wait(_PAGE_SECONDS / self.stack.options.speed)

    def _send_batch(self, begun: Storm, batch: list[dict[str, Any]]) -> None:
        if not self._stopping.is_set():
            status, _ = self.stack.post("/events", json.dumps(batch).encode())
            begun.refused += 0 if status == HTTPStatus.OK else len(batch)

    def _sandbox(self) -> Sandbox:
        """Return the sandbox; with the real PagerDuty, which would page, there is nothing to play with."""
        if self.stack.sandbox is None:
            abort(HTTPStatus.CONFLICT)
        return self.stack.sandbox

    def _updates(self) -> Iterator[str]:
        """Tell what has changed, as server-sent events, for as long as the browser listens."""
        known: dict[int, int] = {}
        last_change = 0
        sent: dict[str, Any] = {}
        parts: dict[str, Callable[[], Any]] = {
            **self._watch.parts(),
            "pagerduty": lambda: {"mode": self._mode, "limit": self._limit},
        }
        yield f"retry: {_COME_AGAIN_MILLISECONDS}\n\n"
        while not self._stopping.is_set():
            update: dict[str, Any] = {"first": True} if not sent else {}
            update |= {"incidents": incidents} if (incidents := self._watch.incidents(known)) else {}
            if changes := self._watch.changes(last_change):
                update["changes"], last_change = changes, changes[-1]["number"]
            for name, look in parts.items():
                part = look()
                if name not in sent or sent[name] != part:
                    update[name] = sent[name] = part
            if update:
                yield f"data: {json.dumps(update)}\n\n"
            self._stopping.wait(_LOOK_SECONDS)


@contextlib.contextmanager
def _refusing_others() -> Iterator[Any]:
    """Yield the request's JSON; what the block cannot read of it is answered 400."""
    try:
        yield request.get_json()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        answer = jsonify(message="This is not what the page sends")
        answer.status_code = HTTPStatus.BAD_REQUEST
        abort(answer)


def settings(current: Mapping[str, str]) -> list[dict[str, Any]]:
    """List the settings that can be tried, as the template describes them, with the values of the stack."""
    template: Any = yaml_parse(TEMPLATE.read_text(encoding="utf-8"))
    variables = template["Resources"]["ApiFunction"]["Properties"]["Environment"]["Variables"]
    described = []
    for name in MAPPING_SETTINGS:
        if name in variables:
            parameter = variables[name]["Ref"]
            about = template["Parameters"][parameter]
            described.append(
                {
                    "name": name,
                    "parameter": parameter,
                    "default": about["Default"],
                    "value": current[name],
                    "choices": about.get("AllowedValues", []),
                    "description": about["Description"],
                }
            )
    return described


def _file_of(name: str, kind: str) -> Callable[[], Response]:
    return lambda: _file(name, kind)


def _file(name: str, kind: str) -> Response:
    return Response((_FILES / name).read_bytes(), mimetype=kind)

"""The page of `make serve`, and the HTTP API behind it: docs/development.md describes both.

They are served on the API's port, to this machine only: `local.server` refuses requests of other pages. The content of
events reaches the page as data and is shown as text; the content security policy lets nothing else run.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from flask import Flask, Response, abort, jsonify, request

from local.dead_letters import DeadLetters
from local.options import LOCAL_TOKEN, MAPPING_SETTINGS, RATE_LIMIT, Options
from local.requests import PREVIEWS, Json
from local.resources import properties, template
from local.sandbox import Fault, Sandbox
from local.stack import LocalStack
from local.ui.samples import page, samples, storm
from local.ui.watch import STEP, Storm, Watch

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from local.observer import Observer

_FILES: Final = Path(__file__).parent
_TYPES: Final = {"page.js": "text/javascript", "page.css": "text/css"}
_HEADERS: Final = {
    # Only images that an event names are loaded from elsewhere, when its incident is opened.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src https: 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_MAX_STORM: Final = 5_000
# Critical events during a storm, and the seconds between two of them.
_PAGES: Final = 20
_PAGE_SECONDS: Final = 5.0
_MAX_BODY: Final = 16 * 1024 * 1024
# Seconds between two updates, and milliseconds until a browser that lost the connection opens another.
_UPDATE_SECONDS: Final = 0.15
_RETRY: Final = 1_000

FAILURES: Final[Mapping[str, Fault | None]] = {
    "works": None,
    "limits": None,
    "fails": Fault.answer(HTTPStatus.SERVICE_UNAVAILABLE),
    "silent": Fault(takes_effect=False, reply=b""),
    "refuses the key": None,
    "refuses events": Fault.answer(
        HTTPStatus.BAD_REQUEST,
        {"status": "invalid event", "message": "Event object is invalid", "errors": ["A simulated refusal"]},
    ),
}


class Page:
    """The local stack with the page in front of its API, as a context manager that returns the stack."""

    def __init__(self, options: Options | None = None, *observers: "Observer") -> None:
        self._watch = Watch()
        self.stack = LocalStack(options, self._watch, self._watch.requests, *observers, middleware=self._middleware)
        self._stopping = threading.Event()
        self._failure: Json = {"mode": "works", "limit": 0}
        self._parts: dict[str, Callable[[], Any]] = {**self._watch.parts(), "pagerduty": lambda: self._failure}
        self._storms = self._resets = 0
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
            is_ours = path in {"/", "/favicon.ico"} or path.startswith(("/page/", "/api/"))
            return (self._application if is_ours else api)(environ, start_response)

        return choose

    def _routes(self) -> Flask:
        application = Flask(__name__, static_folder=None)
        application.config["MAX_CONTENT_LENGTH"] = _MAX_BODY
        application.json.sort_keys = False  # type: ignore[attr-defined]  # of the provider that Flask has by default

        @application.before_request
        def only_json() -> None:
            # Another page can send anything else without a preflight request.
            if request.method == "POST" and not (request.is_json and isinstance(request.get_json(silent=True), dict)):
                _refuse("expected a JSON object, and Content-Type: application/json", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)

        @application.after_request
        def add_headers(response: Response) -> Response:
            response.headers.update(_HEADERS)
            return response

        lists = self._watch.lists()
        pages: dict[str, Callable[..., Response]] = {
            "/": partial(_file, "index.html", "text/html"),
            "/favicon.ico": lambda: Response(status=HTTPStatus.NO_CONTENT),
            **{f"/page/{name}": partial(_file, name, kind) for name, kind in _TYPES.items()},
            "/api/start": self._start,
            "/api/updates": lambda: Response(self._updates(), mimetype="text/event-stream"),
            "/api/requests": lambda: jsonify(self._watch.requests.search(request.args.get("search", ""))),
            "/api/requests/<int:number>": self._request,
            **{f"/api/{name}": partial(_newest_first, lists[name]) for name in ("incidents", "changes")},
            **{f"/api/{name.replace('_', '-')}": partial(_part, part) for name, part in self._parts.items()},
        }
        actions: dict[str, Callable[..., Response]] = {
            "/api/send": self._send,
            "/api/pagerduty": self._set_pagerduty,
            "/api/storm": self._begin_storm,
            "/api/reset": self._reset,
            "/api/queue/try-now": lambda: jsonify(messages=self.stack.try_now()),
            "/api/dead-letters/redrive": lambda: jsonify(messages=self._dead_letters().redrive(_ids())),
            "/api/dead-letters/discard": lambda: jsonify(messages=self._dead_letters().discard(_ids())),
        }
        for method, views in (("GET", pages), ("POST", actions)):
            for rule, view in views.items():
                application.add_url_rule(rule, f"{method} {rule}", view, methods=[method])
        return application

    # -- the HTTP API --------------------------------------------------------------------------------------------------

    def _start(self) -> Response:
        """Return the data that stays the same while the stack runs."""
        options = self.stack.options
        return jsonify(
            samples=samples(),
            services=list(options.routing_keys),
            settings=settings(self.stack.settings),
            is_real=options.pagerduty_url is not None,
            rate_limit=options.rate_limit or RATE_LIMIT,
            token=LOCAL_TOKEN if options.token == LOCAL_TOKEN else "TOKEN",
            step=STEP,
        )

    def _request(self, number: int) -> Response:
        return jsonify(self._watch.requests.detail(number) or _refuse("no such request", HTTPStatus.NOT_FOUND))

    def _send(self) -> Response:
        """Preview a body, and send it if `send` is true; return both answers."""
        path, body = _field("path", str), _field("body", str).encode("utf-8", "replace")
        chosen = _field("settings", dict, {})
        chosen = {name: str(value) for name, value in chosen.items() if name in MAPPING_SETTINGS}
        if not (path.startswith("/") and path.isascii() and path.isprintable()):
            _refuse("path: expected one that begins with /, such as /events")
        answer, started = None, time.monotonic()
        with self.stack.changed_settings(chosen) if chosen else nullcontext():
            preview = self._answer(f"{path}?preview=true", body, PREVIEWS)
            if _field("send", bool, default=False):
                started = time.monotonic()
                answer = self._answer(path, body)
        return jsonify(preview=preview, answer=answer, path=path, seconds=round(time.monotonic() - started, 3))

    def _answer(self, path: str, body: bytes, sender: str = "") -> Json:
        status, content = self.stack.post(path, body, sender)
        return {"status": status, "content": json.loads(content)}

    def _set_pagerduty(self) -> Response:
        """Simulate a failure of PagerDuty, or let it work again."""
        mode, limit, sandbox = _field("mode", str), _field("limit", int, 1), self._sandbox()
        if mode not in FAILURES:
            _refuse(f"mode: expected one of {', '.join(FAILURES)}")
        if limit < 1:
            _refuse("limit: expected at least 1")
        fault = FAILURES[mode]
        sandbox.on_call = (lambda _: fault) if fault else None
        sandbox.rate_limit = limit if mode == "limits" else self.stack.options.rate_limit
        sandbox.known_keys = set() if mode == "refuses the key" else None
        self._failure = {"mode": mode, "limit": limit}
        return jsonify(self._failure)

    def _begin_storm(self) -> Response:
        """Start a storm; its requests are made after this one is answered."""
        size = _field("events", int)
        if not 1 <= size <= _MAX_STORM:
            _refuse(f"events: expected 1 to {_MAX_STORM:,}")
        self._sandbox()
        self._storms += 1
        begun = self._watch.storm = Storm(f"storm-{self._storms}-", {"pages": _PAGES, "others": size})
        threading.Thread(target=self._send_storm, args=(begun,), name="storm", daemon=True).start()
        return jsonify(events=size)

    def _send_storm(self, begun: Storm) -> None:
        for batch in storm(begun.name, begun.size["others"]):
            self._send_batch(begun, batch)
        for number in range(1, _PAGES + 1):
            # An array, since that goes through the queue.
            self._send_batch(begun, [page(begun.name, number)])
            self._stopping.wait(_PAGE_SECONDS / self.stack.options.speed)

    def _send_batch(self, begun: Storm, batch: list[Json]) -> None:
        if not self._stopping.is_set() and self._watch.storm is begun:
            status, _ = self.stack.post("/events", json.dumps(batch).encode())
            begun.refused += 0 if status == HTTPStatus.OK else len(batch)

    def _reset(self) -> Response:
        """Forget all requests, messages, incidents and simulated failures."""
        self._watch.clear()
        self.stack.reset()
        self._failure = {"mode": "works", "limit": 0}
        self._resets += 1
        return jsonify(reset=True)

    def _dead_letters(self) -> DeadLetters:
        sqs, dynamodb, stack = self.stack.aws.client("sqs"), self.stack.aws.client("dynamodb"), self.stack
        return DeadLetters(sqs, dynamodb, stack.queue_url, stack.dead_letter_queue_url, stack.flow_table)

    def _sandbox(self) -> Sandbox:
        """Return the sandbox; nothing is simulated with the real PagerDuty, which would page."""
        return self.stack.sandbox or _refuse("PagerDuty is the real one, not the sandbox", HTTPStatus.CONFLICT)

    def _updates(self) -> Iterator[str]:
        """Yield what has changed, as server-sent events, while the browser listens."""
        resets = -1
        yield f"retry: {_RETRY}\n\n"
        while not self._stopping.is_set():
            update: Json = {}
            if resets != self._resets:
                resets, update = self._resets, {"first": True}
                known: dict[tuple[str, int], int] = {}
                sent: Json = {}
            for name, rows in self._watch.lists().items():
                changed = [each for each in rows() if known.get((name, each[0])) != each[1]]
                known |= {(name, number): version for number, version, _ in changed}
                update |= {name: [row() for *_, row in changed]} if changed else {}
            for name, part in self._parts.items():
                content = part()
                if name not in sent or sent[name] != content:
                    update[name] = sent[name] = content
            if update:
                yield f"data: {json.dumps(update)}\n\n"
            self._stopping.wait(_UPDATE_SECONDS)


def _refuse(message: str, status: int = HTTPStatus.BAD_REQUEST) -> NoReturn:
    answer = jsonify(message=message)
    answer.status_code = status
    abort(answer)


def _field(name: str, kind: type, default: Any = None) -> Any:
    """Return a field of the request's JSON; without a default it is required."""
    value = request.get_json().get(name, default)
    if type(value) is not kind:  # True is no whole number.
        names = {str: "a string", int: "a whole number", bool: "true or false", dict: "an object", list: "an array"}
        _refuse(f"{name}: expected {names[kind]}")
    return value


def _ids() -> list[str] | None:
    """Return the ids of the chosen dead letters, None for all of them."""
    return _field("ids", list) if "ids" in request.get_json() else None


def settings(current: Mapping[str, str]) -> list[Json]:
    """Return the settings of the mapping as the template describes them, with the values of the stack."""
    variables = properties("ApiFunction")["Environment"]["Variables"]
    described = []
    for name in filter(variables.__contains__, MAPPING_SETTINGS):
        parameter = variables[name]["Ref"]
        about = template()["Parameters"][parameter]
        shown = {
            "default": about["Default"],
            "choices": about.get("AllowedValues", []),
            "description": about["Description"],
        }
        described.append({"name": name, "parameter": parameter, "value": current[name], **shown})
    return described


def _newest_first(rows: Callable[[], Iterable[Any]]) -> Response:
    return jsonify([row() for *_, row in rows()][::-1])


def _part(part: Callable[[], Any]) -> Response:
    return jsonify(part())


def _file(name: str, kind: str) -> Response:
    return Response((_FILES / name).read_bytes(), mimetype=kind)

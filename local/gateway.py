"""SAM's local API Gateway, fed from template.yaml, with the functions running in `local.runtime`.

Where SAM differs from an HTTP API on AWS, this module restores AWS's behaviour: which bodies are passed as base64,
which paths match no route, and the responses to an unknown route, an oversized request and a failed function.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flask import Request, Response, jsonify
from samcli.lib.providers.api_provider import ApiProvider
from samcli.lib.providers.provider import Stack
from samcli.lib.providers.sam_function_provider import SamFunctionProvider
from samcli.lib.providers.sam_stack_provider import SamLocalStackProvider
from samcli.local.apigw.event_constructor import construct_v2_event_http
from samcli.local.apigw.local_apigw_service import LocalApigwService
from samcli.local.apigw.path_converter import PathConverter
from samcli.local.apigw.route import Route
from werkzeug.test import Client

from local.observer import Observer
from local.runtime import Function
from local.server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

# HTTP APIs pass these as text.
_TEXT_TYPES: Final = frozenset({"application/json", "application/javascript", "application/xml", ""})

# Lambda's limit; the emulator would truncate the event.
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
_MAX_PAYLOAD: Final = 6 * 1024 * 1024


def load(template: Path, parameters: dict[str, str]) -> tuple[list[Stack], dict[str, Function]]:
    """Read the template as SAM does; return its stacks, and its functions by logical id."""
    with warnings.catch_warnings():
        # SAM CLI calls deprecated parts of its own translator.
        warnings.simplefilter("ignore", DeprecationWarning)
        stacks, _ = SamLocalStackProvider.get_stacks(str(template), parameter_overrides=parameters)
        functions = list(SamFunctionProvider(stacks).get_all())
    return stacks, {
        each.name: Function(
            name=each.name,
            code=Path(each.codeuri),
            handler=each.handler,
            timeout=each.timeout,
            environment={name: str(value) for name, value in each.environment["Variables"].items()},
        )
        for each in functions
    }


class Gateway(Server):
    """The template's HTTP API on `http://127.0.0.1:PORT`; `invoke` runs a function by its logical id.

    Its observers' `on_request` and `on_answer` are called for each request. `middleware` wraps the API, to serve other
    paths as well.
    """

    def __init__(
        self,
        stacks: list[Stack],
        invoke: Callable[[str, str], str],
        port: int = 0,
        observers: Sequence[Observer] = (),
        middleware: "Callable[[WSGIApplication], WSGIApplication] | None" = None,
    ) -> None:
        service = _HttpApi(ApiProvider(stacks).api, _Runner(invoke), port=port, host="127.0.0.1")
        service.create()
        service.notify(observers)
        self._api = service.wsgi
        # Binds the port, so that one in use is noticed before anything else starts.
        super().__init__(middleware(self._api) if middleware else self._api, port)

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Handle a request in this thread, without a connection; return the response's status and body."""
        response = Client(self._api).post(path, self.url, data=body, headers=dict(headers))
        return response.status_code, response.get_data()


class _Runner:
    """Runs a function for SAM's API Gateway."""

    def __init__(self, invoke: Callable[[str, str], str]) -> None:
        self._invoke = invoke

    def invoke(self, function_name: str, event: str, *, stdout: Any, **_: Any) -> None:
        """Run the function; an oversized event and a failed invocation get the responses of an HTTP API on AWS."""
        if len(event) > _MAX_PAYLOAD:
            stdout.write_str(_error(413, "Request Entity Too Large"))
            return
        answer = self._invoke(function_name, event)
        # Lambda's report of a failed invocation has no status.
        stdout.write_str(answer if '"statusCode"' in answer else _error(500, "Internal Server Error"))

    def is_debugging(self) -> bool:
        return False


class _HttpApi(LocalApigwService):  # type: ignore[misc]  # SAM CLI publishes no types
    @property
    def wsgi(self) -> Any:
        return self._app

    def notify(self, observers: Sequence[Observer]) -> None:
        from flask import request  # noqa: PLC0415 -- a proxy that exists during a request only

        def before_request() -> None:
            for observer in observers:
                observer.on_request(request)

        def after_request(response: Response) -> Response:
            for observer in observers:
                observer.on_answer(request, response)
            return response

        self._app.before_request(before_request)
        self._app.before_request(lambda: None if _is_routable(request) else _not_found())
        self._app.after_request(after_request)

    def _generate_lambda_event(
        self, flask_request: Request, route: Route, method: str, endpoint: str
    ) -> dict[str, Any]:
        """Build the event with SAM's own builder, but choose base64 request by request, as AWS does."""
        event: dict[str, Any] = construct_v2_event_http(
            flask_request=flask_request,
            port=self.port,
            binary_types=[flask_request.mimetype] if _is_binary(flask_request) else [],
            stage_name=self.api.stage_name,
            stage_variables=self.api.stage_variables,
            route_key=self._v2_route_key(
                method, PathConverter.convert_path_to_api_gateway(endpoint), route.is_default_route
            ),
        )
        # AWS passes header names in lower case.
        event["headers"] = {name.lower(): value for name, value in event["headers"].items()}
        return event

    def _construct_error_handling(self) -> None:
        super()._construct_error_handling()
        for status in (404, 405):
            self._app.register_error_handler(status, _not_found)


def _is_binary(request: Request) -> bool:
    """Return whether the body is passed as base64: compressed, not of a textual type, or not text at all."""
    mimetype = request.mimetype
    if request.headers.get("Content-Encoding", "identity") != "identity":
        return True
    if not (mimetype in _TEXT_TYPES or mimetype.startswith("text/") or mimetype.endswith(("+json", "+xml"))):
        return True
    try:
        request.get_data().decode()
    except UnicodeDecodeError:
        return True
    return False


def _error(status: int, message: str) -> str:
    return json.dumps({"statusCode": status, "body": json.dumps({"message": message})})


def _is_routable(request: Request) -> bool:
    """Return whether an HTTP API may match the path: a path that ends with a slash matches no route.

    Two slashes in a row and an encoded slash are refused as well, because AWS's behaviour is not documented.
    """
    path = request.environ["REQUEST_URI"].partition("?")[0]
    return not (path.endswith("/") or "//" in path or "%2f" in path.lower())


def _not_found(_: Exception | None = None) -> tuple[Response, int]:
    return jsonify({"message": "Not Found"}), 404

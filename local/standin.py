"""Replaces the Runtime Interface Emulator where it cannot run: one process, one invocation at a time.

It accepts the same requests, and ends the process at the time limit, as Lambda does. Started as
`python standin.py PORT HANDLER` in the function's directory.
"""

import importlib
import json
import os
import signal
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any


class Invocations(BaseHTTPRequestHandler):
    """Answers each POST with what the handler returns; exceptions become Lambda's error object."""

    protocol_version = "HTTP/1.1"
    server: HTTPServer

    def do_POST(self) -> None:
        """Run the handler; SIGALRM's default action ends the process at the time limit."""
        if self.headers["host"] != f"127.0.0.1:{self.server.server_port}" or "origin" in self.headers:
            self.send_error(403)  # A page that is open in a browser on this machine.
            return
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        timeout = float(os.environ["AWS_LAMBDA_FUNCTION_TIMEOUT"])
        signal.setitimer(signal.ITIMER_REAL, timeout)
        end = time.monotonic() + timeout
        # What the functions read of https://docs.aws.amazon.com/lambda/latest/dg/python-context.html.
        context = SimpleNamespace(
            aws_request_id=str(uuid.uuid4()),
            get_remaining_time_in_millis=lambda: max(0, round((end - time.monotonic()) * 1000)),
        )
        try:
            module, _, name = sys.argv[2].rpartition(".")
            answer: Any = getattr(importlib.import_module(module), name)(event, context)
        except Exception as error:  # noqa: BLE001 -- as Lambda: whatever the handler raises is its answer
            answer = {"errorType": type(error).__name__, "errorMessage": str(error)}
        signal.setitimer(signal.ITIMER_REAL, 0)
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class names it so
        """Stay quiet: the function logs by itself."""


def _end_with_parent() -> None:
    """Wait until standard input ends: the process that started this one has ended, or was killed."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 -- a string is what sys.path holds
    threading.Thread(target=_end_with_parent, daemon=True).start()
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Invocations).serve_forever()

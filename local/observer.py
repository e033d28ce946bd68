"""Observers of a local stack: the terminal, the page, chaos and benchmarks."""

from typing import TYPE_CHECKING

from local.sandbox import Received

if TYPE_CHECKING:
    from flask import Request, Response


class Observer:
    """Is called for what happens in a stack, from any thread; subclasses override the methods that they need."""

    def on_request(self, request: "Request") -> None:
        """Note a request to the API."""

    def on_answer(self, request: "Request", response: "Response") -> None:
        """Note its response."""

    def on_received(self, call: Received) -> None:
        """Note a call to the sandbox, between its effect and its answer."""

    def on_log(self, line: str) -> None:
        """Note a line of a function's log."""


class Log(Observer):
    """Keeps the lines of the functions' logs."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_log(self, line: str) -> None:
        """Keep the line."""
        self.lines.append(line)

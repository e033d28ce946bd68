"""What the functions say about themselves: one logger, and one line per event at its end.

Never an event's content, a header or a secret: only what identifies the event and what became of it.
"""

import traceback
from typing import Any, Final

from aws_lambda_powertools import Logger

from errors import Deferred, NotSentError

# A messageId is a UUID; one that is not is shortened.
_LOGGED_CHARACTERS: Final = 100

logger = Logger(location=None)


def log_event(  # noqa: PLR0913 -- one argument a field of the line
    *,
    service: str,
    outcome: str,
    code: str,
    kind: str | None = None,
    action: str | None = None,
    message_id: str | None = None,
    dedup_key: str | None = None,
    **more: Any,
) -> None:
    """Write the one line of an event; a warning when it was not sent."""
    write = logger.warning if outcome in {"rejected", "deferred"} else logger.info
    fields = {
        "pagerduty_service": service,
        "outcome": outcome,
        "code": code,
        "kind": kind,
        "action": action,
        "message_id": message_id and message_id[:_LOGGED_CHARACTERS],
        "dedup_key": dedup_key,
        **more,
    }
    write("event", extra={name: value for name, value in fields.items() if value is not None})


def log_request(error: NotSentError) -> None:
    """Write the line of a request of which no event was looked at."""
    logger.warning("request", extra={"outcome": error.outcome, "code": error.code})


def bug(error: Exception) -> Deferred:
    """Log where a bug is, without the exception's text, which may hold the event; tell the sender to come again."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    logger.error("A bug", extra={"exception_type": type(error).__name__, "places": places})
    return Deferred("internal_error", "The function failed, and not because of the event; it will be tried again")

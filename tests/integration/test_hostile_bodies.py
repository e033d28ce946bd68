"""Bodies made to exhaust the function: each is answered, with few lines in the log.

`benchmarks.hostile_bodies` measures their cost with the memory and the share of a processor that Lambda gives, and also
sends those that need settings.
"""

import io

import pytest

from benchmarks.hostile_bodies import BODIES, Body
from tests.support import Endpoint, lines

WITHOUT_SETTINGS = [body for body in BODIES if not body.settings]


@pytest.mark.parametrize("body", WITHOUT_SETTINGS, ids=[body.name for body in WITHOUT_SETTINGS])
def test_a_hostile_body_is_answered_with_few_lines_in_the_log(
    endpoint: Endpoint, log: io.StringIO, monkeypatch: pytest.MonkeyPatch, body: Body
) -> None:
    monkeypatch.setattr("app.DEADLINE", 30.0)  # For a busy machine; unbounded work takes minutes.
    answer = endpoint.post(
        "", milliseconds=31_000, **{name: body.request()[name] for name in ("body", "isBase64Encoded")}
    )

    assert answer.content["code"] == body.code
    # A hundred about events that were not accepted, and one with the number of the others, of about 900 bytes each.
    assert len([line for line in lines(log) if line["status"] != "queued"]) <= 101
    assert len(log.getvalue()) < 1500 * 1000

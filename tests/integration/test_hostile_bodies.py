"""Bodies made to exhaust the mapping: each is answered, with few lines in the log.

`benchmarks.hostile_bodies` measures their cost with the memory and the share of a processor that Lambda gives. It also
sends those that are refused before the mapping, or need settings.
"""

import io

import pytest

from benchmarks.hostile_bodies import BODIES, Body
from tests.support import Endpoint, lines

MAPPED = [body for body in BODIES if body.code in {"queued", "delivered"} and not body.settings]


@pytest.mark.parametrize("body", MAPPED, ids=[body.name for body in MAPPED])
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

"""Bodies made to exhaust the function: each has its answer, and leaves few lines in the log.

`benchmarks.hostile_bodies` measures their cost with the memory and the share of a processor that Lambda gives, and also
sends those that need settings.
"""

import io
import json

import pytest

from benchmarks.hostile_bodies import BODIES, Body
from tests.support import Endpoint

WITHOUT_SETTINGS = [body for body in BODIES if not body.settings]


@pytest.mark.parametrize("body", WITHOUT_SETTINGS, ids=[body.name for body in WITHOUT_SETTINGS])
def test_a_hostile_body_has_its_answer_and_few_lines_of_log(
    endpoint: Endpoint, log: io.StringIO, monkeypatch: pytest.MonkeyPatch, body: Body
) -> None:
    monkeypatch.setattr("app.DEADLINE", 30.0)  # For a busy machine; what is not bounded takes minutes.
    answer = endpoint.post(
        "", milliseconds=31_000, **{name: body.request()[name] for name in ("body", "isBase64Encoded")}
    )

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert answer.content["code"] == body.code
    # A hundred of events that were not accepted, and one that counts the others. A line has about 900 bytes.
    assert len([line for line in lines if line["status"] != "queued"]) <= 101
    assert len(log.getvalue()) < 1500 * 1000

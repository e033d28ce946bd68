"""Bodies made to exhaust the function: each has its answer, and leaves no more in the log than a person would read.

`benchmarks.hostile_bodies` measures what they cost with the memory and the processor share that Lambda gives.
"""

import io
import json

import pytest

from benchmarks.hostile_bodies import BODIES, Body
from tests.support import Endpoint

# The hundred lines of events that were not taken, and the one that counts the others.
MOST_LINES = 101
# A line has some 900 bytes.
MOST_BYTES_OF_LOG = 1000 * 1500


@pytest.mark.parametrize("body", BODIES, ids=[body.name for body in BODIES])
def test_a_hostile_body_has_its_answer_and_few_lines_of_log(endpoint: Endpoint, log: io.StringIO, body: Body) -> None:
    answer = endpoint.post("", **{name: body.request()[name] for name in ("body", "isBase64Encoded")})

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert answer.content["code"] == body.code
    assert len([line for line in lines if line["status"] != "queued"]) <= MOST_LINES
    assert len(log.getvalue()) < MOST_BYTES_OF_LOG


def test_what_has_no_line_of_its_own_is_counted(endpoint: Endpoint, log: io.StringIO) -> None:
    endpoint.post([0] * 200)

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert sum(line.get("left_out", 1) for line in lines) == 200
    assert sum(sum(line["Rejected"]) for line in lines) == 200

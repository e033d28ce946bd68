"""JSON from bodies, and the PagerDuty event as JSON."""

import json

import pytest

from event import Event, decode, encode


def test_an_event_is_encoded_without_spaces_and_escapes() -> None:
    event = Event("payments", "change", {"a": ["é", "🚨", 1, 2.5, None, True], "ü": {}})

    assert event.body == '{"a":["é","🚨",1,2.5,null,true],"ü":{}}'.encode()


def test_half_a_surrogate_pair_is_encoded_as_a_question_mark() -> None:
    halves = {"\ud83d": "high", "low": "\udea8", "wrong order": "a\udea8\ud83db", "pair": "🚨"}

    assert json.loads(encode(halves)) == {"?": "high", "low": "?", "wrong order": "a??b", "pair": "🚨"}


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("[NaN, Infinity, -Infinity]", b'["NaN","Infinity","-Infinity"]'),
        ("[1e999, -1e999, 1.50, 1e2]", b'["1e999","-1e999",1.5,100.0]'),
        (f"[1{'0' * 5000}, 7, 1e999, NaN]", f'["1{"0" * 5000}",7,"1e999","NaN"]'.encode()),
    ],
    ids=["no numbers", "large floats", "a long integer"],
)
def test_a_number_that_json_or_python_cannot_hold_is_read_as_a_text(text: str, encoded: bytes) -> None:
    assert encode(decode(text)) == encoded


@pytest.mark.parametrize("text", ["", "{", "[1,]", "{'a': 1}", f"[{'1' * 5000},]"])
def test_text_that_is_no_json_is_an_error(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        decode(text)


@pytest.mark.parametrize(
    ("event", "type_name", "description"),
    [
        (Event("payments", "alert", {}, "resolve"), "resolve", "alert event (resolve)"),
        (Event("payments", "change", {}), "change", "change event"),
    ],
)
def test_an_event_has_a_name_for_the_log_and_a_description_for_people(
    event: Event, type_name: str, description: str
) -> None:
    assert (event.type_name, event.description) == (type_name, description)

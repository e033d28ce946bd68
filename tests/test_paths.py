"""Paths into events, and values as texts: what the cases of `mapping/*.json` do not tell apart."""

import pytest

from paths import Finder, fold, read_path, shown, text_of


@pytest.mark.parametrize("path", ["event.0", "properties.count.0", "properties.flag.0"])
def test_what_is_no_array_has_no_positions(path: str) -> None:
    finder = Finder({"event": "Disk full", "properties": {"count": 12, "flag": True}})

    assert finder.find(read_path(path)) is None


def test_a_name_that_is_nearly_right_is_told_once() -> None:
    finder = Finder({"properties": {"dedup_key": "disk"}})

    found = [finder.find(read_path("properties.dedupKey")) for _ in range(2)]

    assert found == ["disk", "disk"]
    assert finder.warnings == ['properties.dedupKey: found as "dedup_key"; write it as dedupKey']


@pytest.mark.parametrize(("name", "letters"), [("dedupKey", "dedupkey"), ("DEDUP-KEY 2", "dedupkey2"), ("_", "")])
def test_of_a_name_its_letters_and_digits_count(name: str, letters: str) -> None:
    assert fold(name) == letters


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"),
        ({"a": 1}, "an object"),
        (["a"], "an array"),
        (True, "true"),
        (5, "5"),
        (7.5, "7.5"),
        ("high", '"high"'),
        ("5", '"5"'),
        ("x" * 40, f'"{"x" * 40}"'),
        ("x" * 1041, "a string of 1,041 characters"),
        ("x" * 41, "a string of 41 characters"),
        (10**39, "1" + "0" * 39),
        (10**40, "a long number"),
    ],
)
def test_people_are_shown_what_came_instead(value: object, words: str) -> None:
    assert shown(value) == words


@pytest.mark.parametrize(
    ("value", "text"), [(9_999_999_999_999_998.0, "9999999999999998"), (1e16, "1e+16"), (10**16, "1" + "0" * 16)]
)
def test_a_large_number_has_the_digits_that_it_came_with(value: float, text: str) -> None:
    assert text_of(value) == text

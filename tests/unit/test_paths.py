"""Names and paths in events, and values as texts: what the cases of the mapping do not distinguish."""

import pytest

from paths import EventReader, describe, is_missing, normalize, read_path, scalar_to_text, strip


@pytest.mark.parametrize("path", ["event.0", "properties.count.0", "properties.flag.0"])
def test_a_value_that_is_no_array_has_no_positions(path: str) -> None:
    reader = EventReader({"event": "Disk full", "properties": {"count": 12, "flag": True}})

    assert reader.find(read_path(path)) is None


def test_a_similar_name_is_found_with_a_warning_that_gives_the_right_spelling() -> None:
    reader = EventReader({"properties": {"dedup_key": "disk"}})

    assert reader.find(read_path("properties.dedupKey")) == "disk"
    assert reader.warnings == ['properties.dedupKey: found as "dedup_key"; write it as dedupKey']


@pytest.mark.parametrize(("name", "letters"), [("DEDUP-KEY 2", "dedupkey2"), ("_", ""), ("Größe_²", "größe²")])
def test_a_name_is_reduced_to_its_letters_and_digits(name: str, letters: str) -> None:
    assert normalize(name) == letters


def test_white_space_of_python_and_zero_width_characters_are_blank() -> None:
    blanks = [chr(code) for code in range(0x10000) if chr(code).isspace()] + list("\u200b\u200c\u200d\u2060\ufeff")

    assert [blank for blank in blanks if not is_missing(blank) or strip(f"{blank}k{blank}") != "k"] == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"),
        ({"a": 1}, "an object"),
        (["a"], "an array"),
        (True, "true"),
        (7.5, "7.5"),
        ("5", '"5"'),
        ("x" * 40, f'"{"x" * 40}"'),
        ("x" * 1041, "a string of 1,041 characters"),
        ("x" * 41, "a string of 41 characters"),
        (10**39, "1" + "0" * 39),
        (10**40, "a long number"),
    ],
)
def test_a_value_is_described_for_people(value: object, words: str) -> None:
    assert describe(value) == words


@pytest.mark.parametrize(
    ("value", "text"), [(9_999_999_999_999_998.0, "9999999999999998"), (1e16, "1e+16"), (10**16, "1" + "0" * 16)]
)
def test_a_large_number_keeps_its_digits(value: float, text: str) -> None:
    assert scalar_to_text(value) == text

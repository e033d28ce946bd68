"""Timestamps of every kind: what PagerDuty is to get, and which moment is meant."""

import itertools
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

import timestamps

ELEVEN = datetime(2026, 6, 30, 11, tzinfo=UTC)
MIDNIGHT = datetime(2026, 6, 30, tzinfo=UTC)
EPOCH_SECONDS = 1_782_817_200
# https://www.rfc-editor.org/rfc/rfc3339#section-5.6, its numbers in the bounds of section 5.7.
RFC_3339 = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?"
    r"([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-06-30T11:00:00Z", ELEVEN),
        ("2026-06-30t11:00:00z", ELEVEN),
        ("2026-06-30T11:00:00.0Z", ELEVEN),
        ("2026-06-30T11:00:00.250Z", ELEVEN + timedelta(milliseconds=250)),
        ("2026-06-30T11:00:00.123456Z", ELEVEN + timedelta(microseconds=123_456)),
        ("2026-06-30T11:00:00.123456789Z", ELEVEN + timedelta(microseconds=123_456)),
        ("2026-06-30T11:00:00+00:00", ELEVEN),
        ("2026-06-30T11:00:00-00:00", ELEVEN),
        ("2026-06-30T13:00:00+02:00", ELEVEN),
        ("2026-06-30T16:30:00+05:30", ELEVEN),
        ("2026-06-30T02:00:00-09:00", ELEVEN),
        ("2026-07-01T10:59:00+23:59", ELEVEN),
        ("2026-06-29T11:01:00-23:59", ELEVEN),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
        ("1971-01-01T00:00:00Z", datetime(1971, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_rfc_3339_is_passed_on_as_it_is(text: str, moment: datetime) -> None:
    assert timestamps.read(text) == (text, moment)


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2016-12-31t23:59:60z", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2016-12-31T15:59:60.75-08:00", datetime(2016, 12, 31, 23, 59, 59, 750_000, tzinfo=UTC)),
        ("2017-01-01T00:59:60+01:00", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_leap_second_is_passed_on_as_it_is_and_is_about_the_second_before(text: str, second: datetime) -> None:
    read = timestamps.read(text)

    assert read is not None
    assert read.text == text
    assert abs(read.moment - second) <= timedelta(seconds=1)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-06-30 11:00:00Z", ELEVEN),
        ("2026-06-30 11:00:00", ELEVEN),
        ("2026-06-30T11:00:00", ELEVEN),
        ("2026-06-30T11:00:00+0000", ELEVEN),
        ("2026-06-30T13:00:00+0200", ELEVEN),
        ("2026-06-30T13:00:00+02", ELEVEN),
        ("2026-06-30T11:00:00,25Z", ELEVEN + timedelta(milliseconds=250)),
        ("2026-06-30T11:00", ELEVEN),
        ("2026-06-30T11:00Z", ELEVEN),
        ("2026-06-30T11", ELEVEN),
        ("20260630T110000Z", ELEVEN),
        ("20260630T110000", ELEVEN),
        ("20260630T1100", ELEVEN),
        ("20260630T130000+0200", ELEVEN),
        ("20260630T110000.250Z", ELEVEN + timedelta(milliseconds=250)),
        ("2026-W27-2T11:00:00Z", ELEVEN),
        ("2026W272T110000Z", ELEVEN),
        ("2026-06-30", MIDNIGHT),
        ("20260630", MIDNIGHT),
        ("2026-W27-2", MIDNIGHT),
        ("2026W272", MIDNIGHT),
        ("2026-W27", datetime(2026, 6, 29, tzinfo=UTC)),
        ("2020-W53-5", datetime(2021, 1, 1, tzinfo=UTC)),
        ("2026-06-30 11:00:00 +0000", ELEVEN),
    ],
)
def test_every_other_iso_8601_becomes_rfc_3339_and_means_utc_without_an_offset(text: str, moment: datetime) -> None:
    read = timestamps.read(text)

    assert read is not None
    assert read.moment == moment
    assert RFC_3339.fullmatch(read.text)
    assert timestamps.read(read.text) == read


def test_a_fraction_of_a_minute_is_not_taken_for_one_of_a_second() -> None:
    read = timestamps.read("2026-06-30T11:00.5Z")

    assert read is None or read.moment == ELEVEN + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (EPOCH_SECONDS, ELEVEN),
        (float(EPOCH_SECONDS), ELEVEN),
        (EPOCH_SECONDS + 0.25, ELEVEN + timedelta(milliseconds=250)),
        (EPOCH_SECONDS * 1000, ELEVEN),
        (EPOCH_SECONDS * 1000 + 1, ELEVEN + timedelta(milliseconds=1)),
        (EPOCH_SECONDS * 1000 + 0.5, ELEVEN + timedelta(microseconds=500)),
        (str(EPOCH_SECONDS), ELEVEN),
        (f"{EPOCH_SECONDS}.250", ELEVEN + timedelta(milliseconds=250)),
        (f"{EPOCH_SECONDS}000", ELEVEN),
        (f"{EPOCH_SECONDS}001", ELEVEN + timedelta(milliseconds=1)),
        (f" {EPOCH_SECONDS}\n", ELEVEN),
        (EPOCH_SECONDS * 1_000_000 + 1, ELEVEN + timedelta(microseconds=1)),
        (f"{EPOCH_SECONDS}000001", ELEVEN + timedelta(microseconds=1)),
        (float(EPOCH_SECONDS * 1_000_000), ELEVEN),
        (1_000_000_000, datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)),
        ("1000000000", datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)),
        (1_000_000_000_000, datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)),
        ("1000000000000", datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)),
        (4_102_444_800, datetime(2100, 1, 1, tzinfo=UTC)),
        (4_102_444_800_000, datetime(2100, 1, 1, tzinfo=UTC)),
    ],
)
def test_an_epoch_in_seconds_milliseconds_or_microseconds_becomes_rfc_3339(
    value: float | str, moment: datetime
) -> None:
    read = timestamps.read(value)

    assert read is not None
    assert read.moment == moment
    assert RFC_3339.fullmatch(read.text)
    assert timestamps.read(read.text) == read


@pytest.mark.parametrize("digits", range(1, 20))
def test_a_number_and_its_text_are_the_same_epoch_of_10_13_or_16_digits(digits: int) -> None:
    number = int("1999999999999999999"[:digits])

    read = timestamps.read(number)

    assert (read is not None) == (digits in {10, 13, 16})
    assert timestamps.read(str(number)) == read


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        [],
        ["2026-06-30T11:00:00Z"],
        {},
        {"date": "2026-06-30"},
        b"2026-06-30",
        "",
        " \t\n",
        "now",
        "yesterday",
        "T11:00:00Z",
        "11:00:00Z",
        "30.06.2026",
        "06/30/2026",
        "2026/06/30",
        "2026-6-30",
        "26-06-30",
        "Tue, 30 Jun 2026 11:00:00 GMT",
        "Tue Jun 30 2026 11:00:00 GMT+0000",
        "2026-02-29T11:00:00Z",
        "2026-02-30",
        "2026-13-01",
        "2026-00-01",
        "2026-06-31T11:00:00Z",
        "2026-06-30T25:00:00Z",
        "2026-06-30T11:60:00Z",
        "2026-06-30T11:00:61Z",
        "2026-W54-1",
        "2026-W27-8",
        "2026-000",
        "2026-366",
        "0000-01-01T00:00:00Z",
        "12026-06-30T11:00:00Z",
        "-2026-06-30T11:00:00Z",
        "2026-06-30T11:00:00+24:00",
        "2026-06-30T11:00:00Zulu",
        "2026-06-30T11:00:00Z and so on",
        "2026-06-30T11:00:00 Europe/Zurich",
        "2026-06-30T11:00:00\u221201:00",
        "\u0662\u0660\u0662\u0666-06-30T11:00:00Z",
        "\uff12\uff10\uff12\uff16-06-30",
        "\ud83d",
        "2026-06-30T11:00:00\ud83d",
        "1e9",
        "0x6a43a2b0",
        0,
        "0",
        1,
        -86_400,
        20260131,
        99_999_999,
        "99999999",
        -99_999_999,
        99_999_999.5,
        "99999999.5",
        "1970-12-31T23:59:59Z",
        "1970-01-01T00:00:00Z",
        "1969-12-31T16:00:00-08:00",
        "0001-01-01T00:00:00Z",
        "1900-01-01",
        "2026-181",
        "2026181",
        "2026-06-30x11:00:00",
        "202606301100",
        "20260630110",
        "20260630110000",
        202606301100,
        100_000_000,
        "100000000",
        17_828_172_001,
        "17828172001",
        -1_782_817_200,
        "-1782817200",
        "1_782_817_200",
        "+1782817200",
        "1782817200s",
        "nan",
        "inf",
        "9" * 100_000,
        "2026-06-30T11:00:00Z" * 10_000,
        10**30,
        -(10**30),
        10**400,
        1e300,
        -1e300,
        float("inf"),
        float("nan"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_timestamp_is_none(value: object) -> None:
    assert timestamps.read(value) is None


@pytest.mark.parametrize("offset", ["+00:60", "-00:60", "+01:60", "+10:99"])
def test_an_offset_that_rfc_3339_does_not_have_is_not_passed_on(offset: str) -> None:
    read = timestamps.read(f"2026-06-30T11:00:00{offset}")

    assert read is None or RFC_3339.fullmatch(read.text)


@pytest.mark.parametrize("text", ["  2026-06-30T11:00:00Z", "2026-06-30T11:00:00Z\r\n"])
def test_white_space_around_it_is_no_part_of_it(text: str) -> None:
    assert timestamps.read(text) == ("2026-06-30T11:00:00Z", ELEVEN)


@pytest.fixture
def machine_in_zurich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("machine_in_zurich")
@pytest.mark.parametrize(
    "value", ["2026-06-30T11:00:00", "20260630T1100", "2026-06-30T13:00:00+0200", "2026-06-30T11:00:00Z", EPOCH_SECONDS]
)
def test_where_the_machine_is_does_not_matter(value: object) -> None:
    read = timestamps.read(value)

    assert read is not None
    assert read.moment == ELEVEN
    assert timestamps.read(read.text) == read


def test_every_moment_is_in_utc() -> None:
    offsets = {
        read.moment.utcoffset()
        for value in (
            "2026-06-30T13:00:00+02:00",
            "2026-06-30",
            "20260630T1300+0200",
            EPOCH_SECONDS,
            str(EPOCH_SECONDS),
        )
        if (read := timestamps.read(value))
    }

    assert offsets == {timedelta(0)}


def test_everything_that_is_read_from_parts_put_together_is_written_as_rfc_3339() -> None:
    dates = ["2026-06-30", "20260630", "2026-W27-2", "2026W272", "2026-W27", "1971-01-01", "9999-12-31", "2026-02-30"]
    separators = ["T", "t", " ", "", "x", "TT"]
    times = ["", "11", "1100", "11:00", "11:00:00", "110000", "11:00:00.5", "11:00:00,5", "11:00:60", "24:00:00", "1"]
    offsets = ["", "Z", "z", "+00:00", "-0330", "+02", "+23:59", "-23:59", "+24:00", "+1", " Z"]

    texts = ["".join(parts) for parts in itertools.product(dates, separators, times, offsets)]

    read = {text: found.text for text in texts if (found := timestamps.read(text))}
    assert len(read) > 1000
    assert {text: written for text, written in read.items() if not RFC_3339.fullmatch(written)} == {}


def test_a_timestamp_is_plain_text_and_fits_into_json() -> None:
    read = timestamps.read(EPOCH_SECONDS)

    assert read is not None
    assert json.loads(json.dumps(read.text)) == "2026-06-30T11:00:00+00:00"

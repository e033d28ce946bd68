"""Timestamps of every kind: what PagerDuty gets, and which moment is meant."""

import itertools
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

import timestamps

ELEVEN = datetime(2026, 6, 30, 11, tzinfo=UTC)
MIDNIGHT = datetime(2026, 6, 30, tzinfo=UTC)
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
        ("2026-06-30T11:00:00.123456789Z", ELEVEN + timedelta(microseconds=123_456)),
        ("2026-06-30T11:00:00-00:00", ELEVEN),
        ("2026-06-30T16:30:00+05:30", ELEVEN),
        ("2026-07-01T10:59:00+23:59", ELEVEN),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
        ("1971-01-01T00:00:00Z", datetime(1971, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        # A leap second counts as the second before it.
        ("2016-12-31t23:59:60z", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2016-12-31T15:59:60.75-08:00", datetime(2016, 12, 31, 23, 59, 59, 750_000, tzinfo=UTC)),
        ("2017-01-01T00:59:60+01:00", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_rfc_3339_is_passed_on_as_it_is(text: str, moment: datetime) -> None:
    assert timestamps.read(text) == (text, moment)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-06-30 11:00:00Z", ELEVEN),
        ("2026-06-30 11:00:00", ELEVEN),
        ("2026-06-30T13:00:00+0200", ELEVEN),
        ("2026-06-30T13:00:00+02", ELEVEN),
        ("2026-06-30 13:00:00 +0200", ELEVEN),
        ("2026-06-30T11:00:00,25Z", ELEVEN + timedelta(milliseconds=250)),
        ("2026-06-30T11:00Z", ELEVEN),
        ("2026-06-30T11", ELEVEN),
        ("20260630T110000.250Z", ELEVEN + timedelta(milliseconds=250)),
        ("20260630T1100", ELEVEN),
        ("2026-W27-2T11:00:00Z", ELEVEN),
        ("2026W272T110000Z", ELEVEN),
        ("2026-06-30", MIDNIGHT),
        ("20260630", MIDNIGHT),
        ("2026-W27", datetime(2026, 6, 29, tzinfo=UTC)),
        (1_782_817_200, ELEVEN),
        (1_782_817_200.25, ELEVEN + timedelta(milliseconds=250)),
        ("1782817200.250", ELEVEN + timedelta(milliseconds=250)),
        (" 1782817200\n", ELEVEN),
        (1_782_817_200_001, ELEVEN + timedelta(milliseconds=1)),
        ("1782817200000.5", ELEVEN + timedelta(microseconds=500)),
        (1_782_817_200_000_001, ELEVEN + timedelta(microseconds=1)),
        ("1782817200000001", ELEVEN + timedelta(microseconds=1)),
        (1_000_000_000, datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)),
        (4_102_444_800, datetime(2100, 1, 1, tzinfo=UTC)),
    ],
)
def test_other_iso_8601_and_epochs_become_rfc_3339_in_utc(text: object, moment: datetime) -> None:
    assert timestamps.read(text) == (moment.isoformat(), moment)


@pytest.mark.parametrize("digits", range(1, 20))
def test_a_number_and_its_text_are_an_epoch_if_they_have_10_13_or_16_digits(digits: int) -> None:
    number = int("1999999999999999999"[:digits])

    read = timestamps.read(number)

    assert (read is not None) == (digits in {10, 13, 16})
    assert timestamps.read(str(number)) == read


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, [], {"date": "2026-06-30"}, b"2026-06-30", "", " \t\n", "now", "T11:00:00Z", "11:00:00Z"),
        *("30.06.2026", "2026/06/30", "2026-6-30", "26-06-30", "Tue, 30 Jun 2026 11:00:00 GMT"),
        *("2026-02-29T11:00:00Z", "2026-02-30", "2026-13-01", "2026-06-30T25:00:00Z", "2026-06-30T11:60:00Z"),
        *("2026-06-30T11:00:61Z", "2026-W54-1", "2026-W27-8", "2026-181", "2026181"),
        *("0000-01-01T00:00:00Z", "12026-06-30T11:00:00Z", "-2026-06-30T11:00:00Z", "0000000000"),
        *("1970-12-31T23:59:59Z", "1969-12-31T16:00:00-08:00", "0001-01-01T00:00:00+02:00", "1900-01-01"),
        *("2026-06-30T11:00:00+24:00", "2026-06-30T11:00:00Zulu", "2026-06-30x11:00:00", "2026-06-30_11:00:00"),
        *("2026-06-30T11:00:00\u221201:00", "\uff12\uff10\uff12\uff16-06-30", "2026-06-30T11:00:00\ud83d"),
        *("2026-06-30T11:00.5Z", "2026-06-30T11:00:00+00:60", "202606301100", "20260630110000", 20260630),
        *("1e9", "1_782_817_200", "+1782817200", "1782817200s", -1_782_817_200, "-1782817200", "nan", 99_999_999.5),
        *("9" * 100_000, "2026-06-30T11:00:00Z" * 10_000, 10**400, -1e300, float("inf"), float("nan")),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_value_that_means_no_moment_is_none(value: object) -> None:
    assert timestamps.read(value) is None


@pytest.fixture
def machine_in_zurich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("machine_in_zurich")
@pytest.mark.parametrize(
    "value", ["2026-06-30T11:00:00", "2026-06-30T13:00:00+0200", "2026-06-30T11:00:00Z", 1782817200]
)
def test_the_time_zone_of_the_machine_does_not_matter(value: object) -> None:
    read = timestamps.read(value)

    assert read is not None
    assert (read.moment, read.moment.utcoffset()) == (ELEVEN, timedelta(0))


def test_each_timestamp_that_is_read_from_combined_parts_is_written_as_rfc_3339() -> None:
    dates = ["2026-06-30", "20260630", "2026-W27-2", "2026W272", "2026-W27", "1971-01-01", "9999-12-31", "2026-02-30"]
    separators = ["T", "t", " ", "", "x", "TT"]
    times = ["", "11", "1100", "11:00", "11:00:00", "110000", "11:00:00.5", "11:00:00,5", "11:00:60", "24:00:00", "1"]
    offsets = ["", "Z", "z", "+00:00", "-0330", "+02", "+23:59", "-23:59", "+24:00", "+1", " Z"]

    texts = ["".join(parts) for parts in itertools.product(dates, separators, times, offsets)]

    read = {text: found.text for text in texts if (found := timestamps.read(text))}
    assert len(read) > 1000
    assert {text: written for text, written in read.items() if not RFC_3339.fullmatch(written)} == {}

"""What a query says: dates in its words, and its limits."""

from datetime import date

import pytest

from modeling_dcclip.search.query import (
    MAX_TERMS,
    Filter,
    embed_query,
    split_dates,
    split_query,
    understand,
)

TODAY = date(2026, 7, 15)  # a Wednesday


@pytest.mark.parametrize(
    ("query", "text", "after", "before"),
    [
        ("2023年夏天的雪", "雪", "2023-06", "2023-08"),
        ("去年生日", "生日", "2025", "2025"),
        ("三年前的海", "海", "2023", "2023"),
        ("2021年5月3日的花", "花", "2021-05-03", "2021-05-03"),
        ("昨天", "", "2026-07-14", "2026-07-14"),
        ("2021/5/12 beach", "beach", "2021-05-12", "2021-05-12"),
        ("snow in May 2021", "snow", "2021-05", "2021-05"),
        ("photos of last winter", "photos", "2025-12", "2026-02"),
        ("last summer", "", "2025-06", "2025-08"),
        ("last May", "", "2026-05", "2026-05"),
        ("last week", "", "2026-07-06", "2026-07-12"),
        ("two years ago", "", "2024", "2024"),
        ("winter 2020 -people", "-people", "2020-12", "2021-02"),
    ],
)
def test_dates_are_split_from_the_text(query, text, after, before):
    found, dates = split_dates(query, TODAY)
    assert found == text
    assert dates.after == after
    assert dates.before == before


@pytest.mark.parametrize(
    "query",
    ["a dog", "夏天的海", "a fall in the snow", "may", "2021-13", "call 20210512"],
)
def test_a_text_without_dates_stays_whole(query):
    assert split_dates(query, TODAY) == (query, None)


@pytest.mark.parametrize(
    ("today", "query", "after"),
    [
        (date(2026, 1, 15), "last winter", "2024-12"),
        (date(2026, 1, 15), "this winter", "2025-12"),
        (date(2026, 12, 1), "last winter", "2025-12"),
        (date(2026, 12, 1), "this winter", "2026-12"),
        (date(2026, 1, 1), "last month", "2025-12"),
    ],
)
def test_seasons_and_months_cross_the_year(today, query, after):
    assert split_dates(query, today)[1].after == after


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('beach -"red sky" sea －人', ("beach  sea", ["red sky", "人"])),
        ("a T-shirt not blue NOT a dog", ("a T-shirt", ["blue", "a dog"])),
        ("a beach without people", ("a beach", ["people"])),
        ("没有人的海滩", ("海滩", ["人"])),
        ("海滩不要人，不要狗", ("海滩", ["人", "狗"])),
        ("没有目的的旅行", ("没有目的的旅行", [])),
        ("照片里有没有狗", ("照片里有没有狗", [])),
    ],
)
def test_a_query_in_the_box_excludes(query, expected):
    assert split_query(query) == expected


def test_a_query_has_at_most_1000_characters():
    understand("9" * 1000, Filter())
    with pytest.raises(ValueError, match=r"1,001 characters; use at most 1,000"):
        understand("9" * 1001, Filter())


def test_a_query_has_at_most_16_terms():
    with pytest.raises(ValueError, match="17 terms, expected 1 to 16"):
        embed_query(None, "red", [str(number) for number in range(MAX_TERMS)])

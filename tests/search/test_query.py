"""What a query says, and its limits."""

import pytest

from modeling_dcclip.search.query.query import (
    MAX_TERMS,
    Filter,
    embed_query,
    phrasings,
    split_query,
    understand,
)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('beach -"red sky" sea －人', ("beach sea", ["red sky", "人"])),
        ("a T-shirt not blue NOT a dog", ("a T-shirt", ["blue", "a dog"])),
        ("a beach without people", ("a beach", ["people"])),
        ("beach -dog  without people", ("beach", ["dog", "people"])),
        ("没有人的海滩", ("海滩", ["人"])),
        ("海滩不要人，不要狗", ("海滩", ["人", "狗"])),
        ("没有目的的旅行", ("没有目的的旅行", [])),
        ("照片里有没有狗", ("照片里有没有狗", [])),
    ],
)
def test_a_query_in_the_box_excludes(query, expected):
    assert split_query(query) == expected


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("dog", ["dog", "a photo of a dog"]),
        ("a dog", ["a dog", "a photo of a dog"]),
        ("An old dog", ["An old dog", "a photo of a old dog"]),
        ("a big old dog", ["a big old dog"]),
        ("海", ["海", "一张海的照片"]),
        ("金毛寻回犬", ["金毛寻回犬"]),
    ],
)
def test_a_name_is_asked_bare_and_in_a_sentence(query, found):
    assert phrasings(query) == found


def test_a_query_with_dates_excludes_too():
    assert understand("beach last summer without people", Filter())[:2] == ("beach", ["people"])
    assert understand("last summer without people", Filter())[:2] == ("", ["people"])
    # nothing but dates: listed by date
    for query in ("我去年的照片", "photos from last summer", "三月的照片", "Christmas"):
        assert understand(query, Filter())[:2] == ("", [])


def test_a_query_has_at_most_1000_characters():
    understand("9" * 1000, Filter())
    with pytest.raises(ValueError, match=r"1,001 characters; use at most 1,000"):
        understand("9" * 1001, Filter())


def test_a_query_has_at_most_16_terms():
    with pytest.raises(ValueError, match="17 terms, expected 1 to 16"):
        embed_query(None, "red", [str(number) for number in range(MAX_TERMS)])

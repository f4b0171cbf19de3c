"""Feasts: their names in Chinese and English, and the days around them, on which people take photographs."""

import re
from datetime import date, timedelta
from functools import cache

from modeling_dcclip.search.messages import UserError

YEARS = range(1998, 2101)  # in which the days of all feasts are known


_NEW_MOON = ("CN", "Chinese New Year (Spring Festival)")
# pattern of its names in the verbose form, day, days from it to the first and to the last one. The day is month and
# day, or a country and the name that the package `holidays` has for it there. The first whose names match counts:
# longer names stand before names that they contain
FEASTS: dict[str, tuple[str, tuple[int, int] | tuple[str, str], int, int]] = {
    "new-years-eve": (r"new\ year'?s\ eve|跨年", (12, 31), 0, 1),
    "lunar-new-years-eve": (r"(?:lunar|chinese)\ new\ year'?s\ eve|除夕", _NEW_MOON, -1, -1),
    "spring-festival": (
        r"(?:chinese|lunar)\ new\ year|spring\ festival"
        r"|[农農][历曆]新年|春[节節]|新春|[过過]年",
        _NEW_MOON,
        -1,
        6,
    ),
    "lantern-festival": (r"lantern\ festival|元宵[节節]?", _NEW_MOON, 14, 14),
    "qingming": (r"qingming(?:\ festival)?|清明[节節]?", (4, 4), 0, 2),
    "dragon-boat-festival": (
        r"dragon\ boat\ festival|端午[节節]?",
        ("TW", "Dragon Boat Festival"),
        -1,
        1,
    ),
    "mid-autumn-festival": (
        r"mid-autumn(?:\ festival)?|moon\ festival|中秋[节節]?",
        ("TW", "Mid-Autumn Festival"),
        -1,
        1,
    ),
    "easter": (r"easter|[复復]活[节節]", ("US", "Easter Sunday"), -2, 1),
    "mothers-day": (r"mother'?s'?\ day|母[亲親][节節]", ("US", "Mother's Day"), 0, 0),
    "fathers-day": (r"father'?s'?\ day|父[亲親][节節]", ("US", "Father's Day"), 0, 0),
    "thanksgiving": (r"thanksgiving|感恩[节節]", ("US", "Thanksgiving Day"), 0, 3),
    "christmas-eve": (r"christmas\ eve|平安夜", (12, 24), 0, 0),
    "christmas": (r"christmas|xmas|[圣聖][诞誕][节節]?", (12, 25), -1, 1),
    "new-year": (r"new\ year(?:'?s(?:\ day)?)?|元旦", (1, 1), -1, 1),
    "valentines-day": (r"valentine'?s(?:\ day)?|情人[节節]", (2, 14), 0, 0),
    "labor-day": (r"may\ day|五一|[劳勞][动動][节節]", (5, 1), 0, 4),
    "childrens-day": (r"children'?s\ day|六一|[儿兒]童[节節]", (6, 1), 0, 0),
    "national-day": (r"national\ day|[国國][庆慶][节節]?|十一", (10, 1), 0, 6),
    "halloween": (r"halloween|[万萬][圣聖][节節]", (10, 31), -1, 1),
}
FEAST_NAMES = "|".join(names for names, *_ in FEASTS.values())


def key_of(name: str) -> str:
    """Key of the feast with a name that `FEAST_NAMES` matches."""
    return next(
        key for key, (names, *_) in FEASTS.items() if re.fullmatch(names, name, re.X | re.I)
    )


def feast_days(key: str, year: int, name: str) -> tuple[str, str]:
    """First and last day around a feast in a year, as `YYYY-MM-DD`.

    Args:
        key: Key of `FEASTS`.
        year: Year.
        name: What a user called it.

    Raises:
        ValueError: Its date in that year is not known.
    """
    _, day, first, last = FEASTS[key]
    try:
        found = _days_of(*day)[year] if isinstance(day[0], str) else date(year, *day)
        return str(found + timedelta(first)), str(found + timedelta(last))
    except (KeyError, ValueError, OverflowError) as error:
        raise UserError(
            "{!r}: its date in the year {} is not known. Name a different year.", name, year
        ) from error


@cache
def _days_of(country: str, name: str) -> dict[int, date]:
    """The first day of a feast by the year."""
    from holidays import country_holidays  # few queries name a feast

    kinds = ("public", "unofficial") if country == "US" else None
    known = country_holidays(country, years=YEARS, language="en_US", categories=kinds)
    return {day.year: day for day in sorted(known.get_named(name, "exact"), reverse=True)}

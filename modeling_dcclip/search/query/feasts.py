"""Feasts: their names in Chinese and English, and the days around them, on which people take photographs."""

import re
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache

from modeling_dcclip.search.messages import UserError

YEARS = range(1998, 2101)  # in which the days of all feasts are known


@dataclass(frozen=True)
class Feast:
    """Days around a feast.

    Args:
        names: Pattern of its names, in the verbose form.
        day: Month and day, or a country and the name that the package `holidays` has for it there.
        first: Days from it to the first one.
        last: Days from it to the last one.
    """

    names: str
    day: tuple[int, int] | tuple[str, str]
    first: int = 0
    last: int = 0


_NEW_MOON = ("CN", "Chinese New Year (Spring Festival)")
# the first whose names match; longer names before names that they contain
FEASTS = {
    "new-years-eve": Feast(r"new\ year'?s\ eve|跨年", (12, 31), 0, 1),
    "lunar-new-years-eve": Feast(r"(?:lunar|chinese)\ new\ year'?s\ eve|除夕", _NEW_MOON, -1, -1),
    "spring-festival": Feast(
        r"(?:chinese|lunar)\ new\ year|spring\ festival|[农農][历曆]新年|春[节節]|新春|[过過]年",
        _NEW_MOON,
        -1,
        6,
    ),
    "lantern-festival": Feast(r"lantern\ festival|元宵[节節]?", _NEW_MOON, 14, 14),
    "qingming": Feast(r"qingming(?:\ festival)?|清明[节節]?", (4, 4), 0, 2),
    "dragon-boat-festival": Feast(
        r"dragon\ boat\ festival|端午[节節]?", ("TW", "Dragon Boat Festival"), -1, 1
    ),
    "mid-autumn-festival": Feast(
        r"mid-autumn(?:\ festival)?|moon\ festival|中秋[节節]?",
        ("TW", "Mid-Autumn Festival"),
        -1,
        1,
    ),
    "easter": Feast(r"easter|[复復]活[节節]", ("US", "Easter Sunday"), -2, 1),
    "mothers-day": Feast(r"mother'?s'?\ day|母[亲親][节節]", ("US", "Mother's Day")),
    "fathers-day": Feast(r"father'?s'?\ day|父[亲親][节節]", ("US", "Father's Day")),
    "thanksgiving": Feast(r"thanksgiving|感恩[节節]", ("US", "Thanksgiving Day"), 0, 3),
    "christmas-eve": Feast(r"christmas\ eve|平安夜", (12, 24)),
    "christmas": Feast(r"christmas|xmas|[圣聖][诞誕][节節]?", (12, 25), -1, 1),
    "new-year": Feast(r"new\ year(?:'?s(?:\ day)?)?|元旦", (1, 1), -1, 1),
    "valentines-day": Feast(r"valentine'?s(?:\ day)?|情人[节節]", (2, 14)),
    "labor-day": Feast(r"may\ day|五一|[劳勞][动動][节節]", (5, 1), 0, 4),
    "childrens-day": Feast(r"children'?s\ day|六一|[儿兒]童[节節]", (6, 1)),
    "national-day": Feast(r"national\ day|[国國][庆慶][节節]?|十一", (10, 1), 0, 6),
    "halloween": Feast(r"halloween|[万萬][圣聖][节節]", (10, 31), -1, 1),
}
FEAST_NAMES = "|".join(feast.names for feast in FEASTS.values())


def key_of(name: str) -> str:
    """Key of the feast with a name that `FEAST_NAMES` matches."""
    return next(
        key for key, feast in FEASTS.items() if re.fullmatch(feast.names, name, re.X | re.I)
    )


def feast_days(key: str, year: int, name: str = "") -> tuple[str, str]:
    """First and last day around a feast in a year, as `YYYY-MM-DD`.

    Args:
        key: Key of `FEASTS`.
        year: Year.
        name: What a user called it. Default: the key.

    Raises:
        ValueError: Its date in that year is not known.
    """
    feast = FEASTS[key]
    try:
        day = _days_of(feast.day)[year] if isinstance(feast.day[0], str) else date(year, *feast.day)
        return str(day + timedelta(feast.first)), str(day + timedelta(feast.last))
    except (KeyError, ValueError, OverflowError) as error:
        raise UserError(
            "{!r}: its date in the year {} is not known. Name a different year.",
            name or key,
            year,
        ) from error


@cache
def _days_of(feast: tuple[str, str]) -> dict[int, date]:
    """The first day of a feast by the year."""
    try:
        from holidays import country_holidays  # few queries name a feast
    except ModuleNotFoundError as error:
        raise UserError(
            "{} is not installed. Run: pip install {}", error.name, error.name
        ) from error
    country, name = feast
    kinds = ("public", "unofficial") if country == "US" else None
    known = country_holidays(country, years=YEARS, language="en_US", categories=kinds)
    return {day.year: day for day in sorted(known.get_named(name, "exact"), reverse=True)}

"""Dates in a query: in words, and in the forms in which they are written."""

import re
from dataclasses import dataclass, replace
from datetime import date, timedelta

from modeling_dcclip.search.messages import UserError
from modeling_dcclip.search.query.feasts import FEAST_NAMES, FEASTS, YEARS, feast_days, key_of

DATE = re.compile(r"(\d{4})(?:年|[-/.年](\d\d?)(?:月|[-/.月](\d\d?)日?)?)?")
PUNCTUATION = "。．.，,、！!？?；;：:~～… "  # at the end of a query
SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
SEASONS |= {"春": 3, "夏": 6, "秋": 9, "冬": 12}
# fmt: off
# of numbers and months, by their first three letters; a few are five
NUMBERS = {"one": 1, "two": 2, "thr": 3, "fou": 4, "fiv": 5, "six": 6, "sev": 7, "eig": 8, "nin": 9, "ten": 10,
           "一": 1, "两": 2, "兩": 2, "二": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9,
           "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6,
           "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
           "few": 5, "几": 5, "幾": 5}
WEEKDAYS = {"monday": 0, "tuesday": 1, "wednesday": 2, "thursday": 3,
            "friday": 4, "saturday": 5, "sunday": 6,
            "一": 0, "二": 1, "三": 2, "四": 3, "五": 4, "六": 5, "日": 6, "天": 6}
# fmt: on
DAYS_OF = {"天": 1, "日": 1, "周": 7, "週": 7, "星期": 7, "礼拜": 7, "禮拜": 7, "day": 1, "week": 7}
RECENT_DAYS = 30  # in a month, and what 最近 and recently mean
YEARS_AGO = {"今年": 0, "去年": 1, "前年": 2, "大前年": 3, "this": 0, "last": 1}
DAYS_AGO = {"today": 0, "yesterday": 1, "day before yesterday": 2, "今天": 0, "昨天": 1, "前天": 2}
# not a decade (1960s, 1980年代), a duration (2000多年) or a size (1920x1080)
_YEAR = (
    r"(?<![\da-z.×*-])(?:19|20)\d\d"
    r"(?![\da-z]|(?<=0)['’]s|\s*(?:[x×*]\s*\d|年代|多年))"
)
_DIGITS = "一二两兩三四五六七八九"
_COUNT = f"[{_DIGITS}]|one|two|three|four|five|six|seven|eight|nine|ten"
# not the end of 150, 几十 or twenty-one
_NUMBER = (
    rf"(?<![a-z\d.几幾数數百千万萬十{_DIGITS}])(?<!ty[\s-])"
    rf"(?P<ago>\d\d?|[{_DIGITS}]?十[{_DIGITS}]?|{_COUNT})"
)
# not the end of 晚上, 日本 or 以前: no Chinese before it, or a word that stands before dates
_START = "(?:(?<![一-鿿])|(?<=[在我的们們]))"
_LAST_OR_THIS = (
    rf"(?<![a-z])(?:last|this)|[这這]|(?:{_START}|(?<=[从從]))[上本]|(?<!上)上(?=[个個])"
)
# not the start of 周围 or 月亮; the day of a week has nothing of 周一家人 or 周日出 behind it
_UNIT = (
    r"week(?:end)?\b|month\b|(?P<weekday1>(?:mon|tues|wednes|thurs|fri|satur|sun)day)\b"
    r"|(?:[周週]|星期|[礼禮]拜)(?:末|(?P<weekday2>[一二三四五六日天])(?=[早中下晚的\s]|$))?"
    r"(?![围圍边邊年])|月(?![亮光饼餅球色影季台臺牙食圆圓])"
)
# not a part of 如今, 失去 or 年轻
_NOW = "(?<![如当當至])今"
_CHINESE_YEAR = f"(?:{_NOW}|(?<![过過失逝])去|{_START}大?前)年(?![代华華轻輕纪紀龄齡])"
_MONTH = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    "|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
_SEASON = "|".join(SEASONS)
_ENGLISH_DAY = r"\d\d?(?:st|nd|rd|th)?"
_RECENT = (
    rf"(?:(?:最近|[过過]去)(?P<count1>\d\d?|[{_DIGITS}十]|[几幾])|{_START}(?P<few>[这這前近])(?P<count2>[几幾两兩]))"
    rf"\s*[个個]?(?P<span1>天|日|[周週]|星期|[礼禮]拜|月|年(?![级級代]))"
    rf"|\b(?:last|past)\s+(?P<count3>\d\d?|few|{_COUNT})"
    r"\s+(?P<span2>day|week|month|year)s?\b"
    r"|(?P<span3>最近|近来|近來|\b(?:most\s+)?recent(?:ly)?\b|\blately\b)"
)
DATES = re.compile(
    rf"""
    (?:\b(?:in|on|from|during|of|the|(?P<between>between)|(?P<side1>before|after|since))\s+)*
    (?:[来來]?自|[从從])?
    (?: (?P<day>(?:day\ before\ )?yesterday\b|today\b|(?:{_NOW}|昨|{_START}前)天)
    | (?P<this>{_LAST_OR_THIS})\s*[个個]?(?P<unit>{_UNIT})
    | (?P<relative>last|this)\s+(?:(?P<season1>{_SEASON})|(?P<month1>{_MONTH}))\b
    | (?P<year1>last|this)\s+year\b
    | (?:{_RECENT})
    | {_NUMBER}\s*(?:years?\s+ago\b|年[以之]?前)
    | \b(?:(?P<season2>{_SEASON})|(?:(?P<date1>{_ENGLISH_DAY})\s+)?(?P<month2>{_MONTH}))\s+
      (?:(?P<date2>{_ENGLISH_DAY}),?\s+)?(?:of\s+)?(?P<year2>{_YEAR})
    | (?P<iso>{_YEAR}[-/.]\d\d?(?:[-/.]\d\d?)?)(?!\d|-(?!(?:19|20)\d\d))
    | (?:(?P<year3>{_YEAR})年?|(?P<year4>{_CHINESE_YEAR}))\s*的?\s*
      (?: (?P<season3>[春夏秋冬])[天季]
      | (?P<month>\d\d?|十[一二]?|[一二三四五六七八九])月(?:份|(?P<date3>\d\d?)[日号號])?
      )?
    )\s*(?P<side2>[以之][前后後]|以[来來]|至今(?!年)|[前后後](?=的|\s|$))?\s*的?\s*""",
    re.X | re.I,
)


@dataclass(frozen=True)
class Dates:
    """Dates that a query names.

    Args:
        words: The part of the query, such as `2023年夏天` or `last winter`.
        after: First date, in the form of `Filter`; None for `before 2020`.
        before: Last date, in the same form; None for `since 2020`.
        every: Days of every year, such as `weekend`; see `recurring`.
    """

    words: str = ""
    after: str | None = None
    before: str | None = None
    every: str | None = None


def split_dates(query: str, today: date) -> tuple[str, Dates | None]:
    """Split a query into its text and the dates that it names.

    Examples: `2023年夏天的雪`, `去年生日`, `last winter`, `snow in May 2021`, `2021-05`, `三年前`, `2019-2021`,
    `before 2020`; without a year `三月`, `May 12`, `weekends`; feasts: `去年春节`, `at Christmas`.

    Raises:
        ValueError: The date of a feast is not known in a year.
    """
    if match := FEAST.search(query):
        text, words = _without(query, *match.span())
        return text, _feast_dates(words, _groups(match), today)
    text, dates = _split_period(query, today)
    match = EVERY.search(text)
    if match is None:
        return text, dates
    found = _groups(match)
    try:
        every = _in_year(2000, found)[0][5:] if "month" in found else "weekend"  # a leap year
    except ValueError:
        return text, dates
    text, words = _without(text, *match.span())
    dates = dates or Dates()
    return text, replace(dates, words=f"{dates.words} {words}".strip(), every=every)


def _without(query: str, start: int, end: int) -> tuple[str, str]:
    """A query without a part that names dates, and this part."""
    text = f"{query[:start]} {query[end:]}".strip(f"的 {PUNCTUATION}")
    return text, query[start:end].strip().rstrip("的").strip(PUNCTUATION)


def _groups(match: re.Match) -> dict[str, str]:
    """What the groups of a match have, in lower case, by their names without the number that tells them apart."""
    groups = match.groupdict().items()
    return {name.rstrip("0123456789"): text.lower() for name, text in groups if text}


def _split_period(query: str, today: date) -> tuple[str, Dates | None]:
    """Split a query into its text and a period of time."""
    match = DATES.search(query)
    if match is None:
        return query, None
    start, end = match.span()
    try:
        after, before = _limits(match, today)
        word = "and" if match["between"] else "to|until|through"
        joint = re.compile(rf"(?:[-–—~～至到]+|(?:{word})\b)\s*", re.I).match(query, end)
        if joint:
            # in a text of its own, so that the year of -2021 has nothing before it
            rest = query[joint.end() :]
            # the year of 2021年5月到8月 is said once
            year = query[start : match.start("month")] if match["month"] else ""
            for said in ("", year):
                other = DATES.match(said + rest)
                if other and other.end() > len(said):
                    before = _limits(other, today)[1]
                    end = joint.end() + other.end() - len(said)
                    break
    except ValueError:  # such as 2021-13
        return query, None
    if (after or "") > end_of(before):
        return query, None
    text, words = _without(query, start, end)
    return text, Dates(words, after, before)


def _limits(match: re.Match, today: date) -> tuple[str | None, str | None]:
    """First and last date that a match of `DATES` allows. Before and after exclude the period itself."""
    found = _groups(match)
    period = _period(found, today)
    first, last = period[0], period[-1]
    side = found.get("side", "")
    if side.endswith(("before", "前")):
        return None, str(_start_of(first) - timedelta(1))
    if side.endswith(("after", "后", "後")):
        days = {4: 366, 7: 31, 10: 1}[
            len(last)
        ]  # from the start of a year, month or day to the next
        return str(_start_of(last) + timedelta(days))[: len(last)], None
    return first, None if side else last


def _start_of(text: str) -> date:
    return date.fromisoformat(f"{text}-01-01"[:10])


def _period(found: dict[str, str], today: date) -> list[str]:
    """First and last date of the groups of a match of `DATES`, or the only one, in the form of `Filter`."""
    if "day" in found:
        return [str(today - timedelta(DAYS_AGO[found["day"]]))]
    if "span" in found:
        count = _number(found.get("count", "1"))
        if found["span"] not in ("年", "year"):
            days = count * DAYS_OF.get(found["span"], RECENT_DAYS)
            return [str(today - timedelta(days)), str(today)]
        # 前几年 are over
        return [str(today.year - count), str(today.year - (found.get("few") == "前"))]
    if "unit" in found:
        return _week_or_month(found, today)
    if "iso" in found:
        return [parse_date("date", found["iso"])]
    if "relative" in found:
        month = f"{today:%Y-%m}"
        periods = [_in_year(today.year - years, found) for years in range(3)]
        if found["relative"] == "last":
            return next(period for period in periods if period[-1] < month)
        # in January, this winter is the one that began in December
        return periods[1] if periods[1][-1] >= month else periods[0]
    if "ago" in found:
        return [str(today.year - _number(found["ago"]))]
    return _in_year(_year(found["year"], today), found)


def _week_or_month(found: dict[str, str], today: date) -> list[str]:
    """First and last date of this week or month, of the last one, or of a day or weekend in it."""
    is_last = found["this"] in ("last", "上")
    if found["unit"] in ("month", "月"):
        return [f"{today.replace(day=1) - timedelta(is_last):%Y-%m}"]
    monday = today - timedelta(today.weekday() + 7 * is_last)
    if name := found.get("weekday"):
        day = monday + timedelta(WEEKDAYS[name])
        # last Tuesday may be in this week, 上周二 is not
        if is_last and name.isascii() and day + timedelta(7) < today:
            day += timedelta(7)
        return [str(day)]
    is_weekend = found["unit"].endswith(("end", "末"))
    return [str(monday + timedelta(5 * is_weekend)), str(monday + timedelta(6))]


def _year(text: str, today: date) -> int:
    return int(text) if text.isdecimal() else today.year - YEARS_AGO[text]


def _in_year(year: int, found: dict[str, str]) -> list[str]:
    """First and last month of a season, or the only date, in a year. A winter begins in December.

    Raises:
        ValueError: The date does not exist.
    """
    if "season" in found:
        month = SEASONS[found["season"]]
        return [f"{year}-{month:02}", f"{year + month // 12}-{(month + 1) % 12 + 1:02}"]
    numbers = [_number(found[name]) for name in ("month", "date") if name in found]
    return [parse_date("date", "-".join(map(str, [year, *numbers])))]


def _number(text: str) -> int:
    """A number in digits, such as 12 or 12th, or in words, or the number of a month by its name."""
    if digits := re.match(r"\d+", text):
        return int(digits[0])
    tens, ten, ones = text.rpartition("十")
    return NUMBERS.get(ones[:3], 0) + (10 * NUMBERS.get(tens, 1) if ten else 0)


# without a year, a feast is also what a photograph shows (Christmas tree, 中秋月饼): it is a date as a whole query,
# after a preposition, or in Chinese before 的 or a space
FEAST = re.compile(
    rf"""
    (?:\b(?:photos?|pictures?)\s+)?(?:\b(?:from|of|in|at|on|during|over|around|for)\s+(?:the\s+)?)?
    (?: (?P<relative>last|this)\s+(?P<name1>{FEAST_NAMES})\b
    | (?P<year2>(?<![\da-z])(?:\d{{1,4}}(?=年)|\d{{4}}(?!\d))|{_CHINESE_YEAR})年?\s*的?\s*
      (?P<name2>{FEAST_NAMES})(?![a-z月个個岁歲号號日班])
    | \b(?P<name3>{FEAST_NAMES})\s+(?:of\s+|in\s+)?
      (?:(?P<year3>\d{{4}}(?![\da-z])|{_CHINESE_YEAR})|(?P<year4>last|this)\s+year\b)
    | \b(?:from|at|on|in|during|over|around|for)\s+(?:the\s+)?(?P<name4>{FEAST_NAMES})(?![a-z])
    | \A\s*(?P<name5>{FEAST_NAMES})(?=[\s{PUNCTUATION}]*\Z)
    | (?<![\d{_DIGITS}十])(?P<name6>(?:{FEAST_NAMES})(?<![a-z]))
      (?=[的\s{PUNCTUATION}]|\Z|假期|期[间間]|那天|[当當]天|前[后後]|[时時]|[长長]假|黄金周)
    )(?:假期|期[间間]|那天|[当當]天|前[后後]|[时時]候?|[长長]假|黄金周|\s+(?:holidays?|day|time)\b)?\s*的?\s*""",
    re.X | re.I,
)
# without a year: weekends, and months and days by their numbers or names
EVERY = re.compile(
    rf"""
    (?: (?:\b(?:on|at|during|over)\s+(?:the\s+)?|\A\s*)weekends?\b|\bweekends\b
    | (?:每[个個]?|所有的?)?(?<![上下])[周週]末
    | (?<![\d{_DIGITS}十几幾两第年])(?P<month1>\d\d?|十[一二]?|[一二三四五六七八九])月
      (?:份|(?P<date1>\d\d?|[{_DIGITS}十]{{1,3}})[日号號])?(?![亮光饼餅球色影季台臺牙食圆圓兰蘭天])
    | (?:\bon\s+(?:the\s+)?)?\b(?P<date2>{_ENGLISH_DAY})\s+(?:of\s+)?(?P<month2>{_MONTH})\b
    | (?:\bon\s+)?\b(?P<month3>{_MONTH})\s+(?P<date3>{_ENGLISH_DAY})\b
    | \b(?:in|during|of|from|every|each)\s+(?P<month4>{_MONTH})\b
    | \A\s*(?=\w{{4}})(?P<month5>{_MONTH})\s*\Z
    )\s*的?\s*""",
    re.X | re.I,
)


def _feast_dates(words: str, found: dict[str, str], today: date) -> Dates:
    """First and last day of the groups of a match of `FEAST`, or the feast of every year."""
    name = found["name"]
    key = key_of(name)
    if not found.keys() & {"relative", "year"}:
        return Dates(words, every=key)
    year = _year(found.get("year", "this"), today)
    days = feast_days(key, year, name)
    if found.get("relative") == "last" and days[0] > str(today):
        days = feast_days(key, year - 1, name)
    return Dates(words, *days)


def recurring(every: str) -> str:
    """SQL condition on the column `date` for days of every year.

    Args:
        every: `weekend`, a month as `MM`, a day as `MM-DD`, or a key of `FEASTS`.

    Raises:
        ValueError: It is something else.
    """
    if every == "weekend":
        return "strftime('%w', date) IN ('0', '6')"
    if re.fullmatch(r"\d\d(?:-\d\d)?", every):
        return f"date LIKE '____-{every}%'"
    if every not in FEASTS:
        raise UserError(
            "every: got {!r}, expected weekend, MM, MM-DD or one of {}.", every, ", ".join(FEASTS)
        )
    days = (feast_days(every, year, every) for year in YEARS)
    conditions = (f"date BETWEEN '{first}' AND '{end_of(last)}'" for first, last in days)
    return f"({' OR '.join(conditions)})"


def parse_date(name: str, text: str) -> str:
    """Write a date as `YYYY`, `YYYY-MM` or `YYYY-MM-DD`, from these or the forms with slashes, dots or 年月日.

    Raises:
        ValueError: It is not a date; the message starts with `name`.
    """
    match = DATE.fullmatch("".join(text.split()))
    parts = [part for part in match.groups() if part] if match else []
    try:
        day = date(*map(int, [*parts, "1", "1"][:3]))  # refuses February 31
    except (ValueError, TypeError) as error:
        raise UserError(
            "{}: {!r} is not a date. Write YYYY, YYYY-MM or YYYY-MM-DD.", name, text
        ) from error
    return str(day)[: 1 + 3 * len(parts)]


def end_of(before: str | None) -> str:
    """A text after all dates and times of a last date; None does not limit it."""
    return f"{before or ''}~"

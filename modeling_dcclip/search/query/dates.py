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
MONTHS = ("january", "february", "march", "april", "may", "june",
          "july", "august", "september", "october", "november", "december")
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5,
           "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
           "一": 1, "两": 2, "兩": 2, "二": 2, "三": 3, "四": 4, "五": 5,
           "六": 6, "七": 7, "八": 8, "九": 9}
WEEKDAYS = {"monday": 0, "tuesday": 1, "wednesday": 2, "thursday": 3,
            "friday": 4, "saturday": 5, "sunday": 6,
            "一": 0, "二": 1, "三": 2, "四": 3, "五": 4, "六": 5, "日": 6, "天": 6}
# fmt: on
YEARS_AGO = {"今年": 0, "去年": 1, "前年": 2, "大前年": 3, "this": 0, "last": 1}
DAYS_AGO = {"today": 0, "yesterday": 1, "day before yesterday": 2, "今天": 0, "昨天": 1, "前天": 2}
# not a decade (1960s, 1980年代), a duration (2000多年) or a size (1920x1080)
_YEAR = (
    r"(?<![\da-z.×*-])(?:19|20)\d\d"
    r"(?![\da-z]|(?<=0)['’]s|\s*(?:[x×*]\s*\d|年代|多年))"
)
_DIGITS = "一二两兩三四五六七八九"
# not the end of 150, 几十 or twenty-one
_NUMBER = (
    rf"(?<![a-z\d.几幾数數百千万萬十{_DIGITS}])(?<!ty[\s-])"
    rf"(?P<ago>\d\d?|[{_DIGITS}]?十[{_DIGITS}]?|{'|'.join(NUMBERS)})"
)
# not the end of 晚上, 日本 or 以前: no Chinese before it, or a word that stands before dates
_START = "(?:(?<![一-鿿])|(?<=[在我的们們]))"
_LAST_OR_THIS = (
    rf"(?<![a-z])(?:last|this)|[这這]|(?:{_START}|(?<=[从從]))[上本]|(?<!上)上(?=[个個])"
)
# not the start of 周围 or 月亮; the day of a week has nothing of 周一家人 or 周日出 behind it
_UNIT = (
    rf"week(?:end)?\b|month\b|(?:{'|'.join(name for name in WEEKDAYS if name.isascii())})\b"
    r"|(?:[周週]|星期|[礼禮]拜)(?:末|(?P<weekday>[一二三四五六日天])(?=[早中下晚的\s]|$))?"
    r"(?![围圍边邊年])|月(?![亮光饼餅球色影季台臺牙食圆圓])"
)
# not a part of 如今, 失去 or 年轻
_NOW = "(?<![如当當至])今"
_CHINESE_YEAR = f"(?:{_NOW}|(?<![过過失逝])去|{_START}大?前)年(?![代华華轻輕纪紀龄齡])"
_MONTH = "|".join([*MONTHS, *(month[:3] for month in MONTHS), "sept"])
_PART = "|".join([*SEASONS, _MONTH])
_ENGLISH_DAY = r"\d\d?(?:st|nd|rd|th)?"
RECENT_DAYS = 30  # what 最近 and recently mean
FEW = 5
DAYS_OF = {"天": 1, "日": 1, "周": 7, "週": 7, "星期": 7, "礼拜": 7, "禮拜": 7, "月": 30}
COUNTS = ("count", "few_count", "english_count")
DAYS_OF |= {"day": 1, "week": 7, "month": 30}
_SPAN = "|".join(map(re.escape, DAYS_OF))
_RECENT = (
    rf"(?:(?:最近|[过過]去)(?P<count>\d\d?|[{_DIGITS}十]|[几幾])|{_START}(?P<few>[这這前近])(?P<few_count>[几幾两兩]))"
    rf"\s*[个個]?(?P<span>{_SPAN}|年(?![级級代]))"
    rf"|\b(?:last|past)\s+(?P<english_count>\d\d?|few|{'|'.join(NUMBERS)})"
    r"\s+(?P<english_span>day|week|month|year)s?\b"
    r"|(?P<recent>最近|近来|近來|\b(?:most\s+)?recent(?:ly)?\b|\blately\b)"
)
DATES = re.compile(
    rf"""
    (?:\b(?:in|on|from|during|of|the|(?P<between>between)|(?P<side>before|after|since))\s+)*
    (?:[来來]?自|[从從])?
    (?: (?P<day>(?:day\ before\ )?yesterday\b|today\b|(?:{_NOW}|昨|{_START}前)天)
    | (?P<this>{_LAST_OR_THIS})\s*[个個]?(?P<unit>{_UNIT})
    | (?P<relative>last|this)\s+(?:year|(?P<relative_part>{_PART}))\b
    | (?:{_RECENT})
    | {_NUMBER}\s*(?:years?\s+ago\b|年[以之]?前)
    | \b(?:(?P<day_first>{_ENGLISH_DAY})\s+)?(?P<part>{_PART})\s+(?:(?P<day_second>{_ENGLISH_DAY}),?\s+)?
      (?:of\s+)?(?P<part_year>{_YEAR})
    | (?P<iso>{_YEAR}[-/.]\d\d?(?:[-/.]\d\d?)?)(?!\d|-(?!(?:19|20)\d\d))
    | (?:(?P<year>{_YEAR})年?|(?P<chinese>{_CHINESE_YEAR}))\s*的?\s*
      (?: (?P<season>[春夏秋冬])[天季]
      | (?P<month>\d\d?|十[一二]?|[一二三四五六七八九])月(?:份|(?P<day_of_month>\d\d?)[日号號])?
      )?
    )\s*(?P<behind>[以之][前后後]|以[来來]|至今(?!年)|[前后後](?=的|\s|$))?\s*的?\s*""",
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

    words: str
    after: str | None
    before: str | None
    every: str | None = None


def split_dates(query: str, today: date) -> tuple[str, Dates | None]:
    """Split a query into its text and the dates that it names.

    Examples: `2023年夏天的雪`, `去年生日`, `last winter`, `snow in May 2021`, `2021-05`, `三年前`, `2019-2021`,
    `before 2020`; without a year `三月`, `May 12`, `weekends`; feasts: `去年春节`, `at Christmas`.

    Raises:
        ValueError: The date of a feast is not known in a year.
    """
    if match := FEAST.search(query):
        return _without(query, *match.span(), *_feast_dates(match, today))
    text, dates = _split_period(query, today)
    match = EVERY.search(text)
    if match is None:
        return text, dates
    every = "weekend"
    month, day = _group(match, "month"), _group(match, "day")
    if month is not None:
        parts = [_month_of(month) if month.isascii() and month.isalpha() else _number(month)]
        if day is not None:
            parts.append(_number(day.rstrip("stndrh")))
        try:
            date(2000, *[*parts, 1][:2])  # a leap year
        except ValueError:
            return text, dates
        every = "-".join(f"{part:02}" for part in parts)
    rest, found = _without(text, *match.span(), None, None, every)
    if dates is None:
        return rest, found
    return rest, replace(dates, words=f"{dates.words} {found.words}", every=every)


def _without(
    query: str,
    start: int,
    end: int,
    after: str | None,
    before: str | None,
    every: str | None = None,
) -> tuple[str, Dates]:
    """A query without a part that names dates, and these dates."""
    text = f"{query[:start]} {query[end:]}".strip(f"的 {PUNCTUATION}")
    return text, Dates(
        query[start:end].strip().rstrip("的").strip(PUNCTUATION), after, before, every
    )


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
    return _without(query, start, end, after, before)


def _limits(match: re.Match, today: date) -> tuple[str | None, str | None]:
    """First and last date that a match of `DATES` allows. Before and after exclude the period itself."""
    first, last = (parse_date("date", text) for text in _period(match, today))
    side = (match["side"] or match["behind"] or "").lower()
    if side.endswith(("before", "前")):
        return None, str(date.fromisoformat(f"{first}-01-01"[:10]) - timedelta(1))
    if side.endswith(("after", "后", "後")):
        return str(_day_after(*map(int, last.split("-")))), None
    return first, None if side else last


def _day_after(year: int, month: int = 12, day: int | None = None) -> date:
    if day is None:
        return date(year + month // 12, month % 12 + 1, 1)
    return date(year, month, day) + timedelta(1)


def _period(match: re.Match, today: date) -> tuple[str, str]:
    """First and last date of a match of `DATES`."""
    found = {name: text.lower() for name, text in match.groupdict().items() if text}
    if "day" in found:
        day = today - timedelta(DAYS_AGO[found["day"]])
        return str(day), str(day)
    if "recent" in found:
        return str(today - timedelta(RECENT_DAYS)), str(today)
    if span := found.get("span") or found.get("english_span"):
        counted = next(found[name] for name in COUNTS if name in found)
        count = FEW if counted in ("few", "几", "幾") else _number(counted)
        if span not in ("年", "year"):
            return str(today - timedelta(count * DAYS_OF[span])), str(today)
        # 前几年 are over
        return str(today.year - count), str(today.year - (found.get("few") == "前"))
    if "unit" in found:
        is_last = found["this"] in ("last", "上")
        unit = found["unit"]
        if unit in ("month", "月"):
            day = today.replace(day=1)
            if is_last:
                day -= timedelta(days=1)
            return f"{day:%Y-%m}", f"{day:%Y-%m}"
        monday = today - timedelta(today.weekday())
        if is_last:
            monday -= timedelta(weeks=1)
        if (name := found.get("weekday", unit)) in WEEKDAYS:
            day = monday + timedelta(WEEKDAYS[name])
            # last Tuesday may be in this week, 上周二 is not
            if is_last and name == unit and day + timedelta(7) < today:
                day += timedelta(7)
            return str(day), str(day)
        first = monday + timedelta(5) if unit.endswith(("end", "末")) else monday
        return str(first), str(monday + timedelta(6))
    if "iso" in found:
        return found["iso"], found["iso"]
    if "relative_part" in found:
        part = found["relative_part"]
        month = f"{today:%Y-%m}"
        periods = [_part_of(today.year - years, part) for years in range(3)]
        if found["relative"] == "last":
            return next(period for period in periods if period[1] < month)
        # in January, this winter is the one that began in December
        return periods[1] if periods[1][1] >= month else periods[0]
    if "ago" in found:
        year = today.year - _number(found["ago"])
    elif name := found.get("chinese") or found.get("relative"):
        year = today.year - YEARS_AGO[name]
    else:
        year = int(found.get("year") or found["part_year"])
    if part := found.get("season") or found.get("part"):
        if ordinal := found.get("day_first") or found.get("day_second"):
            text = f"{year}-{_month_of(part)}-{ordinal.rstrip('stndrh')}"
            return text, text
        return _part_of(year, part)
    numeral = found.get("month")
    numbers = [f"{year}", numeral and f"{_number(numeral)}", found.get("day_of_month")]
    text = "-".join(number for number in numbers if number)
    return text, text


def _number(text: str) -> int:
    if text.isdecimal():
        return int(text)
    tens, ten, ones = text.rpartition("十")
    return (10 * NUMBERS.get(tens, 1) if ten else 0) + NUMBERS.get(ones, 0)


def _part_of(year: int, part: str) -> tuple[str, str]:
    """First and last month of a season, or of a month by its name. A winter begins in December."""
    if part in SEASONS:
        month = SEASONS[part]
        end = f"{year + month // 12}-{(month + 1) % 12 + 1:02}"
        return f"{year}-{month:02}", end
    text = f"{year}-{_month_of(part):02}"
    return text, text


def _month_of(name: str) -> int:
    """Number of a month by the first three letters of its name."""
    return [month[:3] for month in MONTHS].index(name[:3].lower()) + 1


# without a year, a feast is also what a photograph shows (Christmas tree, 中秋月饼): it is a date as a whole query,
# after a preposition, or in Chinese before 的 or a space
FEAST = re.compile(
    rf"""
    (?:\b(?:photos?|pictures?)\s+)?(?:\b(?:from|of|in|at|on|during|over|around|for)\s+(?:the\s+)?)?
    (?: (?P<relative>last|this)\s+(?P<name1>{FEAST_NAMES})\b
    | (?P<year2>(?<![\da-z])(?:\d{{1,4}}(?=年)|\d{{4}}(?!\d))|{_CHINESE_YEAR})年?\s*的?\s*
      (?P<name2>{FEAST_NAMES})(?![a-z月个個岁歲号號日班])
    | \b(?P<name3>{FEAST_NAMES})\s+(?:of\s+|in\s+)?
      (?P<year3>\d{{4}}(?![\da-z])|(?:last|this)\s+year\b|{_CHINESE_YEAR})
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
      (?:份|(?P<day1>\d\d?|[{_DIGITS}十]{{1,3}})[日号號])?(?![亮光饼餅球色影季台臺牙食圆圓兰蘭天])
    | (?:\bon\s+(?:the\s+)?)?\b(?P<day2>{_ENGLISH_DAY})\s+(?:of\s+)?(?P<month2>{_MONTH})\b
    | (?:\bon\s+)?\b(?P<month3>{_MONTH})\s+(?P<day3>{_ENGLISH_DAY})\b
    | \b(?:in|during|of|from|every|each)\s+(?P<month4>{_MONTH})\b
    | \A\s*(?!may)(?P<month5>{"|".join(MONTHS)})\s*\Z
    )\s*的?\s*""",
    re.X | re.I,
)


def _group(match: re.Match, name: str) -> str | None:
    """What a match has in the groups whose names are a name and a number, in lower case."""
    found = (text for key, text in match.groupdict().items() if key.rstrip("0123456789") == name)
    return next((text.lower() for text in found if text), None)


def _feast_dates(match: re.Match, today: date) -> tuple[str | None, str | None, str | None]:
    """First and last day of a match of `FEAST`, or the name of the feast without a year."""
    name = _group(match, "name") or ""
    key = key_of(name)
    text = _group(match, "year")
    if match["relative"]:
        days = feast_days(key, today.year, name)
        is_over = days[0] <= str(today)
        year = today.year - (match["relative"].lower() == "last" and not is_over)
    elif text is None:
        return None, None, key
    elif text.isdecimal():
        year = int(text)
    else:
        year = today.year - YEARS_AGO[text.split()[0]]
    return *feast_days(key, year, name), None


def recurring(every: str) -> tuple[str, list[object]]:
    """SQL condition on the column `date` for days of every year, and its values.

    Args:
        every: `weekend`, a month as `MM`, a day as `MM-DD`, or a key of `FEASTS`.

    Raises:
        ValueError: It is something else.
    """
    if every == "weekend":
        return "strftime('%w', date) IN ('0', '6')", []
    if re.fullmatch(r"\d\d(?:-\d\d)?", every):
        return "date GLOB ?", [f"????-{every}*"]
    if every not in FEASTS:
        raise UserError(
            "every: got {!r}, expected weekend, MM, MM-DD or one of {}.", every, ", ".join(FEASTS)
        )
    values: list[object] = []
    for year in YEARS:
        first, last = feast_days(every, year)
        values += [first, end_of(last)]
    return f"({' OR '.join(['date BETWEEN ? AND ?'] * len(YEARS))})", values


def parse_date(name: str, text: str) -> str:
    """Write a date as `YYYY`, `YYYY-MM` or `YYYY-MM-DD`, from these or the forms with slashes, dots or 年月日.

    Raises:
        ValueError: It is not a date; the message starts with `name`.
    """
    match = DATE.fullmatch("".join(text.split()))
    parts = []
    for part in match.groups() if match else ():
        if part:
            width = max(2, len(part))
            parts.append(f"{int(part):0{width}}")
    try:
        date(*map(int, [*parts, "1", "1"][:3]))  # refuses February 31
    except (ValueError, TypeError) as error:
        raise UserError(
            "{}: {!r} is not a date. Write YYYY, YYYY-MM or YYYY-MM-DD.", name, text
        ) from error
    return "-".join(parts)


def end_of(before: str | None) -> str:
    """A text after all dates and times of a last date; None does not limit it."""
    return f"{before or ''}~"

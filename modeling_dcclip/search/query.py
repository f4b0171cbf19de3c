"""Queries: texts and example images as one embedding, and filters on files."""

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np

from modeling_dcclip.messages import Message, UserError
from modeling_dcclip.runtime_dcclip import ImageInput, Runtime
from modeling_dcclip.search.files import search_text

DATE = re.compile(r"(\d{4})(?:年|[-/.年](\d\d?)(?:月|[-/.月](\d\d?)日?)?)?")
PUNCTUATION = "。．.，,、！!？?；;：:~～… "  # at the end of a query
WITHOUT = 0.5  # weight of what a photograph should not show: the best precision of the first 10 in both languages
# -word or -"two words"; or 没有人的 before what is searched, in one clause and without the word 目的
LEFT_OUT = re.compile(
    r"""(?<!\S)[-－−](?:["“”]([^"“”]+)["“”]|([^\s"“”]+))"""
    r"|^\s*(?:不要|[没沒]有)((?:(?![没沒]有|不要)[^，,。；;的])+)(?<!目)的(?=\s*[^的\s][^的]*$)"
)
# 有没有 and 要不要 ask whether something is there
NEGATION = re.compile(r"(?<!\S)(?:not|without)\s|(?<!要)不要|(?<=[^\s有])\s*[没沒]有(?!.*的)", re.I)

# best photographs among which those that fit are counted, on the page and in the terminal
LOOKED = 200
# of a query
MAX_CHARACTERS = 1000
MAX_TERMS = 16

# a text of at most so many words, or Chinese characters, is searched bare and in a sentence
NAME_WORDS = 2
NAME_CHARACTERS = 4
ARTICLE = re.compile(r"(?:an?|the)\s+", re.I)

SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
SEASONS |= {"春": 3, "夏": 6, "秋": 9, "冬": 12}
# fmt: off
MONTHS = ("january", "february", "march", "april", "may", "june",
          "july", "august", "september", "october", "november", "december")
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5,
           "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
           "一": 1, "两": 2, "兩": 2, "二": 2, "三": 3, "四": 4, "五": 5,
           "六": 6, "七": 7, "八": 8, "九": 9}
# fmt: on
YEARS_AGO = {"今年": 0, "去年": 1, "前年": 2, "this": 0, "last": 1}
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
# not the start of 周围 or 月亮
_UNIT = (
    r"week(?:end)?\b|month\b|(?:[周週]|星期|[礼禮]拜)末?(?![围圍边邊年])"
    r"|月(?![亮光饼餅球色影季台臺牙食圆圓])"
)
# not a part of 如今, 失去 or 年轻
_NOW = "(?<![如当當至])今"
_CHINESE_YEAR = f"(?:{_NOW}|(?<![过過失逝])去|{_START}前)年(?![代华華轻輕纪紀龄齡])"
_PART = "|".join([*SEASONS, *MONTHS, *(month[:3] for month in MONTHS), "sept"])
DATES = re.compile(
    rf"""
    (?:\b(?:in|from|during|of|the|(?P<between>between)|(?P<side>before|after|since))\s+)*
    (?:[来來]?自|[从從])?
    (?: (?P<day>(?:day\ before\ )?yesterday\b|today\b|(?:{_NOW}|昨|{_START}前)天)
    | (?P<this>{_LAST_OR_THIS})\s*[个個]?(?P<unit>{_UNIT})
    | (?P<relative>last|this)\s+(?:year|(?P<relative_part>{_PART}))\b
    | {_NUMBER}\s*(?:years?\s+ago\b|年[以之]?前)
    | \b(?P<part>{_PART})\s+(?:of\s+)?(?P<part_year>{_YEAR})
    | (?P<iso>{_YEAR}[-/.]\d\d?(?:[-/.]\d\d?)?)(?!\d|-(?!(?:19|20)\d\d))
    | (?:(?P<year>{_YEAR})年?|(?P<chinese>{_CHINESE_YEAR}))\s*的?\s*
      (?: (?P<season>[春夏秋冬])[天季]
      | (?P<month>\d\d?)月(?:份|(?P<day_of_month>\d\d?)[日号號])?
      )?
    )\s*(?P<behind>[以之][前后後]|以[来來]|至今(?!年)|[前后後](?=的|\s|$))?\s*的?\s*""",
    re.X | re.I,
)


class QueryWarning(UserWarning):
    """A query that is answered, perhaps not as expected."""


@dataclass
class Filter:
    """Which files a search may find.

    Args:
        after: First date, as `YYYY`, `YYYY-MM` or `YYYY-MM-DD`, also as `2023/5/1` or `2023年5月`. None does not limit
            it.
        before: Last date, in the same form; the whole day, month or year counts. None does not limit it.
        path: Part of the path, or a pattern of the whole path with `*` and `?`. Upper and lower case are the same.

    Raises:
        ValueError: A date is malformed or does not exist, or `after` is later than `before`.
    """

    after: str | None = None
    before: str | None = None
    path: str | None = None

    def __post_init__(self):
        if self.after is not None:
            self.after = _parse_date("after", self.after)
        if self.before is not None:
            self.before = _parse_date("before", self.before)
        if (self.after or "") > self._end:
            raise UserError(
                "after: {!r} is later than before: {!r}. Change one of them.",
                self.after,
                self.before,
            )

    @property
    def _end(self) -> str:
        """A text after all dates and times of `before`."""
        return f"{self.before or ''}~"

    def condition(self) -> tuple[str, list[object]]:
        """SQL condition on the columns `date` and `path`, empty without limits, and its values."""
        conditions: dict[str, object] = {}
        if self.after is not None:
            conditions["date >= ?"] = self.after
        if self.before is not None:
            conditions["date <= ?"] = self._end
        if self.path is not None:
            glob = search_text(os.fsencode(self.path)).replace("[", "[[]")
            conditions["search_text(path) GLOB ?"] = glob if {*"*?"} & {*glob} else f"*{glob}*"
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return where, [*conditions.values()]


@dataclass(frozen=True)
class Dates:
    """Dates that a query names.

    Args:
        words: The part of the query, such as `2023年夏天` or `last winter`.
        after: First date, in the form of `Filter`; None for `before 2020`.
        before: Last date, in the same form; None for `since 2020`.
    """

    words: str
    after: str | None
    before: str | None


def split_dates(query: str, today: date) -> tuple[str, Dates | None]:
    """Split a query into its text and the dates that it names.

    Examples: `2023年夏天的雪`, `去年生日`, `last winter`, `snow in May 2021`, `2021-05`, `三年前`, `2019-2021`,
    `before 2020`.
    """
    match = DATES.search(query)
    if match is None:
        return query, None
    start, end = match.span()
    try:
        after, before = _limits(match, today)
        word = "and" if match["between"] else "to|until|through"
        joint = re.compile(rf"(?:[-–—~～至到]+|(?:{word})\b)\s*", re.I).match(query, end)
        # in a text of its own, so that the year of -2021 has nothing before it
        if joint and (other := DATES.match(query[joint.end() :])):
            before = _limits(other, today)[1]
            end = joint.end() + other.end()
        limits = Filter(after, before)
    except ValueError:  # such as 2021-13
        return query, None
    words = query[start:end].strip().rstrip("的")
    text = f"{query[:start]} {query[end:]}".strip(f"的 {PUNCTUATION}")
    return text, Dates(words, limits.after, limits.before)


def _limits(match: re.Match, today: date) -> tuple[str | None, str | None]:
    """First and last date that a match of `DATES` allows. Before and after exclude the period itself."""
    first, last = (_parse_date("date", text) for text in _period(match, today))
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
    if "unit" in found:
        is_last = found["this"] in ("last", "上")
        unit = found["unit"]
        if unit in ("month", "月"):
            day = today.replace(day=1) - timedelta(is_last)
            return f"{day:%Y-%m}", f"{day:%Y-%m}"
        monday = today - timedelta(today.weekday() + 7 * is_last)
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
        return _part_of(year, part)
    numbers = [f"{year}", found.get("month"), found.get("day_of_month")]
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
    names = [name[:3] for name in MONTHS]
    text = f"{year}-{names.index(part[:3]) + 1:02}"
    return text, text


def understand(
    query: str, chosen: Filter, has_dates: bool = True
) -> tuple[str, list[str], Filter, Dates | None]:
    """Split what a person typed into its text, what it excludes, and a filter with the dates that it names.

    Args:
        query: What was typed.
        chosen: Filter that was set apart. Its dates take the place of those in the query.
        has_dates: Whether to look for dates in the query.
    """
    _require_short(query)
    dates = None
    if has_dates and chosen.after is None and chosen.before is None:
        query, dates = split_dates(query, date.today())
        if dates is not None:
            chosen = replace(chosen, after=dates.after, before=dates.before)
    text, without = split_query(query)
    return text, without, chosen, dates


def _require_short(query: str):
    if len(query) > MAX_CHARACTERS:
        raise UserError(
            "query: it has {:,} characters; use at most {:,}.", len(query), MAX_CHARACTERS
        )


def split_query(query: str) -> tuple[str, list[str]]:
    """Split a query into its text and what it excludes.

    Examples: `beach -people`, `beach not people`, `beach without people`, `海滩不要人`, `海滩没有人`, `没有人的海滩`.
    """
    without = []

    def leave_out(match: re.Match) -> str:
        without.append(match[1] or match[2] or match[3])
        return ""

    rest = " ".join(LEFT_OUT.sub(leave_out, query).split())
    text, *others = NEGATION.split(rest)
    words = [each.strip(PUNCTUATION) for each in [*without, *others]]
    return text.rstrip(PUNCTUATION), [word for word in words if word]


def embed_query(
    runtime: Runtime,
    text: str,
    without: Sequence[str] = (),
    images: Sequence[ImageInput] = (),
) -> np.ndarray:
    """Embed a query: the sum of the embeddings of its text and images, less those of what it excludes.

    Args:
        runtime: Model of the index's space.
        text: What is searched for; empty for nothing.
        without: Texts to subtract, with weight 0.5.
        images: Example images.

    Returns:
        (D,) float32, of unit length.

    Raises:
        ValueError: The query is empty or too long, or its terms cancel out.

    Warns:
        QueryWarning: A text is truncated, or has characters or words that are not in the model's vocabulary.
    """
    terms = dict.fromkeys(without, -WITHOUT) | ({text: 1.0} if text else {})
    if not 1 <= len(terms) + len(images) <= MAX_TERMS:
        raise UserError(
            "query: it has {} terms, expected 1 to {}. Describe a photograph in Chinese or English, or pass an "
            "example image.",
            len(terms) + len(images),
            MAX_TERMS,
        )
    total: np.ndarray = np.zeros(runtime.dimension, np.float32)
    if images:
        total += runtime.encode_images(images).sum(0)
    for term, weight in terms.items():
        _require_short(term)
        _warn(runtime, term)
        mean = runtime.encode_texts(phrasings(term), truncate=True).mean(0)
        total += weight * mean / np.linalg.norm(mean)
    return total / max(np.linalg.norm(total), 1e-6)


def phrasings(text: str) -> list[str]:
    """Texts whose mean embedding stands for a text: a name of a word or two is found better bare and in a sentence."""
    name = ARTICLE.sub("", text, count=1) if ARTICLE.match(text) else text
    if text.isascii():
        is_name = len(name.split()) <= NAME_WORDS
        sentence = f"a photo of a {name}"
    else:
        is_name = len(name) <= NAME_CHARACTERS
        sentence = f"一张{name}的照片"
    return [text, sentence] if is_name else [text]


def _warn(runtime: Runtime, text: str):
    shown = repr(text if len(text) <= 40 else f"{text[:40]}...")
    limit = runtime.max_text_length
    if runtime.count_tokens(text) > limit:
        message = Message("{} is longer than {} tokens and was truncated", shown, limit)
        warnings.warn(message, QueryWarning, stacklevel=3)
    if unknown := runtime.unknown_parts(text):
        message = Message(
            "{} contains {}, which is not in the model's vocabulary", shown, ", ".join(unknown)
        )
        warnings.warn(message, QueryWarning, stacklevel=3)


def _parse_date(name: str, text: str) -> str:
    """`YYYY`, `YYYY-MM` or `YYYY-MM-DD`, from these or the forms with slashes, dots or 年月日."""
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

"""What a query says of dates in its words."""

import sqlite3
from contextlib import closing
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_dcclip.search.messages import UserError
from modeling_dcclip.search.query.dates import recurring, split_dates
from modeling_dcclip.search.query.query import Filter

TODAY = date(2026, 7, 15)  # a Wednesday
# a query, its text, and the first and last date or the days of every year
DATED = [
    ("2023年夏天的雪", "雪", "2023-06..2023-08"),
    ("去年生日", "生日", "2025..2025"),
    ("三年前的海", "海", "2023..2023"),
    ("2021年5月3日的花", "花", "2021-05-03..2021-05-03"),
    ("昨天", "", "2026-07-14..2026-07-14"),
    ("2021/5/12 beach", "beach", "2021-05-12..2021-05-12"),
    ("snow in May 2021", "snow", "2021-05..2021-05"),
    ("photos of last winter", "photos", "2025-12..2026-02"),
    ("last summer", "", "2025-06..2025-08"),
    ("last May", "", "2026-05..2026-05"),
    ("last week", "", "2026-07-06..2026-07-12"),
    ("two years ago", "", "2024..2024"),
    ("winter 2020 -people", "-people", "2020-12..2021-02"),
    ("last weekend", "", "2026-07-11..2026-07-12"),
    ("last Tuesday", "", "2026-07-14..2026-07-14"),
    ("last wednesday", "", "2026-07-08..2026-07-08"),
    ("this friday", "", "2026-07-17..2026-07-17"),
    ("上周五的雪", "雪", "2026-07-10..2026-07-10"),
    ("上个星期天", "", "2026-07-12..2026-07-12"),
    ("这周一晚上", "晚上", "2026-07-13..2026-07-13"),
    ("上周一家人", "一家人", "2026-07-06..2026-07-12"),
    ("上周日出", "日出", "2026-07-06..2026-07-12"),
    ("去年五月的花", "花", "2025-05..2025-05"),
    ("2021年十二月", "", "2021-12..2021-12"),
    ("the day before yesterday", "", "2026-07-13..2026-07-13"),
    ("二十年前的照片", "照片", "2006..2006"),
    ("我上周的照片", "我 照片", "2026-07-06..2026-07-12"),
    ("海滩上个月", "海滩", "2026-06..2026-06"),
    ("2020年轻人", "轻人", "2020..2020"),
    ("这週的雪", "雪", "2026-07-13..2026-07-19"),
    ("上週末的雪", "雪", "2026-07-11..2026-07-12"),
    ("兩年前的海邊", "海邊", "2024..2024"),
    ("2023年5月1號的蛋糕", "蛋糕", "2023-05-01..2023-05-01"),
    ("大前年的海", "海", "2023..2023"),
    ("前几年的照片", "照片", "2021..2025"),
    ("这两年的雪", "雪", "2024..2026"),
    ("最近三个月", "", "2026-04-16..2026-07-15"),
    ("the past few weeks", "", "2026-06-10..2026-07-15"),
    ("cats recently", "cats", "2026-06-15..2026-07-15"),
    ("12 May 2023", "", "2023-05-12..2023-05-12"),
    ("cake on May 12th, 2023", "cake", "2023-05-12..2023-05-12"),
    # the days around a feast
    ("去年春节", "", "2025-01-28..2025-02-04"),
    ("2023年十一假期", "", "2023-10-01..2023-10-07"),
    ("大前年中秋", "", "2023-09-28..2023-09-30"),
    ("tree at Christmas 2022", "tree", "2022-12-24..2022-12-26"),
    ("last Christmas", "", "2025-12-24..2025-12-26"),
    ("last Easter", "", "2026-04-03..2026-04-06"),
    ("new year's eve last year", "", "2025-12-31..2026-01-01"),
    # two dates are one period
    ("holiday 2021-2023", "holiday", "2021..2023"),
    ("from 2019 to 2021 beach", "beach", "2019..2021"),
    ("between 2019 and 2021", "", "2019..2021"),
    ("2021.05.03-2021.05.10 trip", "trip", "2021-05-03..2021-05-10"),
    ("从2019年到去年夏天的海滩", "海滩", "2019..2025-08"),
    ("2021年5月到8月的花", "花", "2021-05..2021-08"),
    ("2021年5月到海边", "到海边", "2021-05..2021-05"),
    ("2019年到2021年以前", "", "2019..2020-12-31"),
    ("last summer to today", "", "2025-06..2026-07-15"),
    # a period may have one end
    ("beach before 2021/3", "beach", "..2021-02-28"),
    ("2020年前的beach", "beach", "..2019-12-31"),
    ("beach after December 2020", "beach", "2021-01.."),
    ("beach after 2020-02-28", "beach", "2020-02-29.."),
    ("去年夏天之后的beach", "beach", "2025-09.."),
    ("beach since last week", "beach", "2026-07-06.."),
    ("自2020年以来的beach", "beach", "2020.."),
    # dates without a year are of every year
    ("三月的花", "花", "03"),
    ("5月12日的蛋糕", "蛋糕", "05-12"),
    ("二月二十九号", "", "02-29"),
    ("snow in March", "snow", "03"),
    ("March", "", "03"),
    ("cake on 12 May", "cake", "05-12"),
    ("Dec 25", "", "12-25"),
    ("周末的公园", "公园", "weekend"),
    ("park on weekends", "park", "weekend"),
    ("去年周末的公园", "公园", "2025..2025 weekend"),
    ("北京春节", "北京", "spring-festival"),
    ("國慶節的煙火", "煙火", "national-day"),
    ("中秋期间的月亮", "月亮", "mid-autumn-festival"),
    ("family at Christmas", "family", "christmas"),
    ("除夕 饺子", "饺子", "lunar-new-years-eve"),
]
# fmt: off
WITHOUT_DATES = [
    "a dog", "夏天的海", "a fall in the snow", "may", "2021-13", "2021-2019", "call 20210512",
    "a 1960s car", "the 1960's", "1920x1080 wallpaper", "1080×1920", "150 years ago",
    "twenty-five years ago", "1980年代的照片", "2000多年前的古城", "三百年前的画",
    "几十年前的老照片", "两三年前", "晚上月亮", "海上月明", "山上周围的树", "日本月饼",
    "日本周边", "这月亮真美", "这个月饼", "这周围的树", "上上周的雪", "上上个月", "门前天鹅",
    "大前天的雪", "以前年轻的妈妈", "过去年代", "失去年轻的心", "如今天气", "Christmas tree",
    "中秋月饼", "圣诞树", "春节联欢晚会", "清明上河图", "2 Christmas trees", "march in the snow",
    "五月天演唱会", "三个月大的宝宝", "二十一月", "十一个人", "2月30日", "上上周末", "这几个人",
    "a weekend bag",
]
# fmt: on
PARTS = [
    *(query for query, *_ in DATED),
    *WITHOUT_DATES,
    "before ",
    "以前",
    " to ",
    "到",
    "的",
    "2021-",
]


def limits_of(dates):
    """Dates in the form of the table."""
    period = f"{dates.after or ''}..{dates.before or ''}"
    return f"{period if period != '..' else ''} {dates.every or ''}".strip()


@pytest.mark.parametrize(("query", "text", "limits"), DATED)
def test_dates_are_split_from_the_text(query, text, limits):
    found, dates = split_dates(query, TODAY)
    assert (found, limits_of(dates)) == (text, limits)


@pytest.mark.parametrize("query", WITHOUT_DATES)
def test_a_text_without_dates_stays_whole(query):
    assert split_dates(query, TODAY) == (query, None)


@given(st.dates(date(1900, 1, 1), date(2099, 12, 31)))
def test_a_date_is_found_in_each_form(day):
    for form in ("%Y-%m-%d", "%Y/%m/%d", "%Y年%m月%d日", "%d %B %Y", "on %b %d, %Y"):
        text, dates = split_dates(f"cake {day.strftime(form)}", TODAY)
        assert (text, limits_of(dates)) == ("cake", f"{day}..{day}")


@settings(deadline=None)  # the first feast loads a calendar
@given(
    st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=5))).map("".join),
    st.dates(date(2000, 1, 1), date(2099, 12, 31)),
)
def test_any_query_is_answered_with_limits_of_a_filter(query, today):
    try:
        text, dates = split_dates(query, today)
    except UserError as error:
        assert "is not known" in str(error)
        return
    if dates is None:
        assert text == query
    else:
        Filter(dates.after, dates.before, every=dates.every).condition()
        assert dates.words


@pytest.mark.parametrize(
    ("every", "days"),
    [
        ("03", ["2019-03-31", "2024-03-02"]),
        ("03-31", ["2019-03-31"]),
        ("weekend", ["2019-03-31", "2024-02-10", "2024-02-11", "2024-03-02"]),
        ("spring-festival", ["2024-02-10", "2024-02-11", "2024-02-16"]),
        ("christmas", ["2023-12-26"]),
    ],
)
def test_a_filter_of_every_year_finds_its_days(every, days):
    taken = (
        "2019-03-31 2023-12-26 2023-12-27 2024-02-10 2024-02-11 2024-02-16 2024-02-19 2024-03-02"
    )
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE photos (date)")
        database.executemany(
            "INSERT INTO photos VALUES (?)", [(f"{day} 23:59:59",) for day in taken.split()]
        )
        found = database.execute(f"SELECT date FROM photos WHERE {recurring(every)}").fetchall()
    assert [day[:10] for (day,) in found] == days


@pytest.mark.parametrize("query", ["0年春节", "1900年的春节", "Christmas 0000"])
def test_a_feast_of_an_unknown_year_is_refused(query):
    with pytest.raises(UserError, match=r"its date in the year \d+ is not known\. Name a"):
        split_dates(query, TODAY)


def test_days_of_an_unknown_feast_are_refused():
    with pytest.raises(UserError, match="every: got 'birthday', expected weekend, MM"):
        recurring("birthday")


@pytest.mark.parametrize(
    ("today", "query", "after"),
    [
        (date(2026, 1, 15), "last winter", "2024-12"),
        (date(2026, 1, 15), "this winter", "2025-12"),
        (date(2026, 12, 1), "last winter", "2025-12"),
        (date(2026, 12, 1), "this winter", "2026-12"),
        (date(2026, 1, 1), "last month", "2025-12"),
        (date(2026, 12, 25), "last Christmas", "2026-12-24"),
    ],
)
def test_seasons_and_months_cross_the_year(today, query, after):
    assert split_dates(query, today)[1].after == after

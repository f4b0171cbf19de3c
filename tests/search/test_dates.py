"""What a query says of dates in its words."""

from datetime import date

import pytest

from modeling_dcclip.search.dates import split_dates

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
        ("last weekend", "", "2026-07-11", "2026-07-12"),
        ("last Tuesday", "", "2026-07-14", "2026-07-14"),
        ("last wednesday", "", "2026-07-08", "2026-07-08"),
        ("this friday", "", "2026-07-17", "2026-07-17"),
        ("上周五的雪", "雪", "2026-07-10", "2026-07-10"),
        ("上个星期天", "", "2026-07-12", "2026-07-12"),
        ("这周一晚上", "晚上", "2026-07-13", "2026-07-13"),
        ("上周一家人", "一家人", "2026-07-06", "2026-07-12"),
        ("上周日出", "日出", "2026-07-06", "2026-07-12"),
        ("去年五月的花", "花", "2025-05", "2025-05"),
        ("2021年十二月", "", "2021-12", "2021-12"),
        ("the day before yesterday", "", "2026-07-13", "2026-07-13"),
        ("二十年前的照片", "照片", "2006", "2006"),
        ("十五年前", "", "2011", "2011"),
        ("我上周的照片", "我 照片", "2026-07-06", "2026-07-12"),
        ("海滩去年夏天", "海滩", "2025-06", "2025-08"),
        ("海滩上个月", "海滩", "2026-06", "2026-06"),
        ("前天的雪", "雪", "2026-07-13", "2026-07-13"),
        ("2020年轻人", "轻人", "2020", "2020"),
        ("上個月的照片", "照片", "2026-06", "2026-06"),
        ("這週的雪", "雪", "2026-07-13", "2026-07-19"),
        ("上週末的雪", "雪", "2026-07-11", "2026-07-12"),
        ("兩年前的海邊", "海邊", "2024", "2024"),
        ("2023年5月1號的蛋糕", "蛋糕", "2023-05-01", "2023-05-01"),
        # two dates are one period
        ("holiday 2021-2023", "holiday", "2021", "2023"),
        ("from 2019 to 2021 beach", "beach", "2019", "2021"),
        ("between 2019 and 2021", "", "2019", "2021"),
        ("2021.05.03-2021.05.10 trip", "trip", "2021-05-03", "2021-05-10"),
        ("从2019年到去年夏天的海滩", "海滩", "2019", "2025-08"),
        ("2021年至今年的雪", "雪", "2021", "2026"),
        ("2021年5月到8月的花", "花", "2021-05", "2021-08"),
        ("从去年十月到12月", "", "2025-10", "2025-12"),
        ("2021年5月到海边", "到海边", "2021-05", "2021-05"),
        ("2019年到2021年以前", "", "2019", "2020-12-31"),
        ("last summer to today", "", "2025-06", "2026-07-15"),
        # a period may have one end
        ("beach before 2020", "beach", None, "2019-12-31"),
        ("beach before 2021/3", "beach", None, "2021-02-28"),
        ("2020年以前的beach", "beach", None, "2019-12-31"),
        ("2020年前的beach", "beach", None, "2019-12-31"),
        ("beach after 2020", "beach", "2021-01-01", None),
        ("beach after December 2020", "beach", "2021-01-01", None),
        ("beach after 2020-02-28", "beach", "2020-02-29", None),
        ("去年夏天之后的beach", "beach", "2025-09-01", None),
        ("beach since last week", "beach", "2026-07-06", None),
        ("自2020年以来的beach", "beach", "2020", None),
        ("2020年至今的beach", "beach", "2020", None),
    ],
)
def test_dates_are_split_from_the_text(query, text, after, before):
    found, dates = split_dates(query, TODAY)
    assert found == text
    assert dates.after == after
    assert dates.before == before


@pytest.mark.parametrize(
    "query",
    [
        "a dog",
        "夏天的海",
        "a fall in the snow",
        "may",
        "2021-13",
        "2021-2019",
        "call 20210512",
        "a 1960s car",
        "the 1960's",
        "1920x1080 wallpaper",
        "1080×1920",
        "150 years ago",
        "twenty-five years ago",
        "1980年代的照片",
        "2000多年前的古城",
        "三百年前的画",
        "几十年前的老照片",
        "两三年前",
        "晚上月亮",
        "海上月明",
        "山上周围的树",
        "日本月饼",
        "日本周边",
        "这月亮真美",
        "这个月饼",
        "这周围的树",
        "上上周的雪",
        "上上个月",
        "门前天鹅",
        "大前天的雪",
        "以前年轻的妈妈",
        "过去年代",
        "失去年轻的心",
        "如今天气",
    ],
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

"""The search page in Chromium, on a desktop in English and on a phone in Chinese."""

import os
import re

import pytest
from PIL import Image

from modeling_dcclip.search.index import Index
from modeling_dcclip.search.serve import SearchServer
from tests.browser import Visit
from tests.local_server import serving

pytestmark = pytest.mark.slow

WINDOWS = {
    "en": {"locale": "en-US", "viewport": {"width": 1280, "height": 800}},
    "zh": {
        "locale": "zh-CN",
        "viewport": {"width": 375, "height": 812},
        "has_touch": True,
        "is_mobile": True,
    },
}


@pytest.fixture(scope="module")
def address(color_model, tmp_path_factory):
    """A server of 200 photographs, one a day from 2020-01-01, from red to green."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(200):
        path = folder / ("early" if number < 100 else "late") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (24, 16), (255 - number, number, 0)).save(path)
        os.utime(path, (1_577_880_000 + 86_400 * number,) * 2)
    with Index.open(tmp_path_factory.mktemp("page") / "index", color_model, create=True) as index:
        index.add(folder)
        with serving(SearchServer(index, port=0)) as server:
            yield server.url


@pytest.mark.parametrize("language", WINDOWS)
def test_one_scrolls_filters_and_clears(browser, address, language):
    visit = Visit(browser, address, **WINDOWS[language])
    page, english = visit.page, language == "en"
    page.set_default_timeout(20_000)

    def shown(number: int, first: int, status: str):
        """Wait until so many photographs are shown, and a first one."""
        page.wait_for_function(
            "([number, first]) => { const names = [...document.querySelectorAll('figcaption a')];"
            " return names.length === number && names[0].textContent === first; }",
            arg=[number, f"{first}.png"],
        )
        assert status in page.locator("#status").text_content()

    shown(60, 199, "newest first" if english else "最新的在前")
    for _ in range(3):
        count = page.locator("figure").count()
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.locator("figure").nth(count).wait_for()
    shown(200, 199, "200 shown of 200" if english else "已显示 200 张，共 200 张")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    page.get_by_role("searchbox", name="Search photographs" if english else "搜索照片").fill(
        "red -green"
    )
    page.keyboard.press("Enter")
    shown(60, 0, "without green" if english else "不含：green")
    page.get_by_text("Filters" if english else "筛选", exact=True).click()
    page.get_by_label("From" if english else "从", exact=True).fill("2020-01-11")
    page.keyboard.press("Enter")
    shown(60, 10, "190")
    page.get_by_label("To" if english else "到", exact=True).fill("2020年1月20日")
    page.keyboard.press("Enter")
    shown(10, 10, "10 shown of 10" if english else "共 10 张")
    page.get_by_label("Sort by" if english else "排序").select_option("date")
    shown(10, 19, "by date" if english else "按日期排序")
    page.get_by_label("Path" if english else "路径").fill("late")
    page.keyboard.press("Enter")
    page.wait_for_function("() => !document.querySelector('figure')")

    page.keyboard.press("Escape")
    shown(60, 199, "Cleared" if english else "已清除")
    assert not any(
        page.locator(f"#{name}").input_value() for name in ("q", "after", "before", "path", "sort")
    )
    page.get_by_label("Path" if english else "路径").fill("nowhere")
    page.keyboard.press("Enter")
    page.wait_for_function("() => !document.querySelector('figure')")
    page.keyboard.press("Escape")
    shown(60, 199, "Cleared" if english else "已清除")
    page.go_back()
    page.wait_for_function("() => !document.querySelector('figure')")
    assert ("Cleared" if english else "已清除") not in page.locator("#status").text_content()
    page.go_forward()
    shown(60, 199, "60")
    page.locator(".similar").nth(2).click()
    remove = page.get_by_role(
        "button", name="Remove the example image" if english else "移除示例图片"
    )
    remove.wait_for()
    shown(60, 197, "60")
    remove.click()
    shown(60, 199, "60")
    assert not remove.is_visible() and not visit.errors and not visit.foreign()

    page.get_by_label("To" if english else "到", exact=True).fill("2020-13")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => document.querySelector('#status').textContent.includes('2020-13')"
    )
    assert ("is not a date" if english else "不是日期") in page.locator("#status").text_content()
    page.close()


def test_a_line_is_above_what_does_not_fit(browser, calibrated):
    with serving(SearchServer(calibrated, port=0)) as server:
        page = Visit(browser, server.url, **WINDOWS["en"]).page
        page.get_by_role("searchbox").fill("red")
        page.keyboard.press("Enter")
        page.get_by_text("Less likely").wait_for()
        kinds = page.evaluate(
            "[...document.querySelector('#grid').children].map((each) => each.localName)"
        )
        assert kinds == ["figure", "h2", *["figure"] * 4]
        page.close()


def test_the_line_moves_down_to_the_last_part_with_a_photograph_that_fits(browser, address):
    def answer(route):
        response, skip = route.fetch(), int(re.search(r"skip=(\d+)", route.request.url)[1])
        hits = [
            hit | {"fits": skip + number not in {59, *range(90, 200)}}
            for number, hit in enumerate(response.json()["hits"])
        ]
        route.fulfill(response=response, json=response.json() | {"hits": hits})

    page = Visit(browser, address, **WINDOWS["en"]).page
    page.route("**/search?*", answer)
    page.get_by_role("searchbox").fill("red")
    page.keyboard.press("Enter")
    page.get_by_text("Less likely").wait_for()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.locator("figure").nth(119).wait_for()
    kinds = page.evaluate(
        "[...document.querySelector('#grid').children].map((each) => each.localName)"
    )
    assert [number for number, kind in enumerate(kinds) if kind == "h2"] == [90]
    page.close()

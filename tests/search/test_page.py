"""The search page in Chromium, on a desktop in English and on a phone in Chinese."""

import os

import pytest
from PIL import Image

from modeling_dcclip.search.index import Index
from modeling_dcclip.search.serve import Indexing, SearchServer
from tests.browser import Visit
from tests.local_server import serving
from tests.search.conftest import film

pytestmark = pytest.mark.slow

DESKTOP = {"locale": "en-US", "viewport": {"width": 1440, "height": 900}}
PHONE = {
    "locale": "zh-CN",
    "viewport": {"width": 360, "height": 780},
    "has_touch": True,
    "is_mobile": True,
}
TARGET = 44  # pixels of a finger


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """200 photographs, one a week from 2020-01-01, from red to green."""
    folder = tmp_path_factory.mktemp("photos") / "weekly"
    folder.mkdir()
    for number in range(200):
        path = folder / f"{number}.png"
        Image.new("RGB", (24, 16), (255 - number, number, 0)).save(path)
        os.utime(path, (1_577_880_000 + 7 * 86_400 * number,) * 2)
    return folder


@pytest.fixture(scope="module")
def address(color_model, photographs, tmp_path_factory):
    with Index.open(tmp_path_factory.mktemp("page") / "index", color_model, create=True) as index:
        index.add(photographs)
        with serving(SearchServer(index, port=0)) as server:
            yield server.url


@pytest.fixture
def visit(browser, address):
    """Function that opens the page in a window, at an address below it; no script of it may fail."""
    visits = []

    def open_page(window=DESKTOP, hash=""):
        visits.append(Visit(browser, address + hash, **window))
        page = visits[-1].page
        page.set_default_timeout(20_000)
        page.locator(".tile, .empty").first.wait_for()
        return page

    yield open_page
    for each in visits:
        each.page.close()
        assert not each.errors
        assert not each.foreign()


def search(page, text):
    """Type a query, and wait for its answer."""
    page.get_by_role("searchbox").fill(text)
    with page.expect_response("**/search?*"):
        page.keyboard.press("Enter")
    page.locator("#grid:not(.loading)").wait_for()


def names(page):
    return page.locator("figcaption span:first-child").all_text_contents()


def wait_for_name(page, name):
    page.wait_for_function(
        "(name) => document.querySelector('#name').textContent === name", arg=name
    )


def status(page):
    return page.locator("#status").text_content()


@pytest.mark.parametrize(
    ("window", "total", "month"),
    [
        (DESKTOP, "200 photographs, newest first", "October 2023"),
        (PHONE, "200 张照片，最新的在前", "2023年10月"),
    ],
    ids=["desktop", "phone"],
)
def test_all_photographs_are_shown_by_month(visit, window, total, month):
    page = visit(window)
    assert status(page) == total
    assert page.locator("h2").first.text_content() == month
    assert names(page)[0] == "199.png"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_rows_are_justified_and_keep_the_proportions(visit):
    page = visit(hash="#q=red")
    page.locator(".tile").nth(59).wait_for()
    boxes = page.evaluate(
        "[...document.querySelectorAll('.tile')].map((each) => each.getBoundingClientRect().toJSON())"
    )
    row = [box for box in boxes if box["top"] == boxes[0]["top"]]
    width = page.evaluate("document.querySelector('.rows').clientWidth")
    assert row[-1]["right"] - row[0]["left"] == pytest.approx(width, abs=1)
    assert all(box["width"] / box["height"] == pytest.approx(1.5, abs=0.02) for box in boxes)


def test_a_year_of_the_scrubber_leads_to_its_photographs(visit):
    page = visit()
    page.get_by_role("button", name="2020", exact=True).click()
    page.get_by_role("button", name="51.png").wait_for()
    page.locator("#years [aria-current=true]", has_text="2020").wait_for()


def test_scrolling_loads_all_results(visit):
    page = visit(hash="#q=red")
    for number in (100, 150, 199):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.locator(".tile").nth(number).wait_for()
    assert len({*names(page)}) == 200


def test_details_are_shown_when_asked_for(visit):
    page = visit()
    caption = page.locator("figcaption").first
    assert not caption.is_visible()
    page.get_by_role("button", name="Details").click()
    assert caption.is_visible()
    assert "2023-10-" in caption.text_content()


def test_what_fits_stands_above_a_line(browser, calibrated):
    with serving(SearchServer(calibrated, port=0)) as server:
        page = Visit(browser, server.url, **DESKTOP).page
        search(page, "red")
        assert status(page) == "1 fit, 4 others below"
        assert page.locator("h2").all_text_contents() == ["Less likely"]
        sections = page.locator("section:visible")
        assert [sections.nth(n).locator("figure").count() for n in (0, 1)] == [1, 4]
        page.locator("#path").evaluate("(field) => (field.value = 'red')")
        search(page, "blue")
        assert status(page) == "Nothing like it was found. The closest ones are below."
        with page.expect_response("**/search?*"):
            page.locator("#sort").select_option("date")
        page.locator("#grid:not(.loading)").wait_for()
        assert status(page) == "Nothing like it was found. The closest ones are below."
        page.close()


def test_dates_in_the_query_are_a_chip_that_can_be_removed(visit):
    page = visit()
    search(page, "2020年夏天的red")
    chip = page.locator(".chip")
    assert chip.text_content().startswith("2020-06 – 2020-08")
    assert {*names(page)} == {f"{number}.png" for number in range(22, 35)}
    page.get_by_role("button", name="Remove: 2020-06 – 2020-08").click()
    page.locator(".tile").nth(59).wait_for()
    assert chip.count() == 0


def test_a_chip_of_dates_without_an_end_has_an_ellipsis(visit):
    page = visit()
    search(page, "before 2020-03")
    page.get_by_role("button", name="Remove: … – 2020-02-29").wait_for()
    page.locator(".tile").first.wait_for()


def test_filters_without_a_photograph_say_so_and_can_be_removed(visit):
    page = visit()
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Path").fill("nowhere")
    page.keyboard.press("Enter")
    page.get_by_text("No photograph passes the filters").wait_for()
    page.get_by_role("button", name="Remove the filters").click()
    page.locator(".tile").first.wait_for()
    assert status(page).startswith("200 ")


def test_a_path_may_have_slashes(visit):
    page = visit()
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Path").click()
    page.keyboard.type("*/weekly/*")
    assert page.get_by_label("Path").input_value() == "*/weekly/*"


def test_esc_clears_and_back_returns_to_the_search(visit):
    page = visit()
    search(page, "red -green")
    assert "without green" in status(page)
    page.keyboard.press("Escape")
    page.locator("h2").first.wait_for()
    assert page.get_by_role("searchbox").input_value() == ""
    page.go_back()
    page.wait_for_function("() => document.querySelector('#q').value === 'red -green'")


def test_a_photograph_opens_large_with_its_neighbors(visit):
    page = visit(hash="#q=red")
    page.locator(".tile").nth(1).click()
    wait_for_name(page, "1.png")
    assert page.locator("#folder").text_content().endswith("/weekly")
    assert page.locator("#date").text_content().startswith("January 8, 2020")
    for key, name in (("ArrowRight", "2.png"), ("ArrowLeft", "1.png"), ("ArrowLeft", "0.png")):
        page.keyboard.press(key)
        wait_for_name(page, name)
    page.locator("#previous:disabled").wait_for(state="attached")
    page.mouse.move(700, 400)
    page.mouse.wheel(0, 100)
    wait_for_name(page, "1.png")
    page.locator("#large.sharp").wait_for()


@pytest.mark.parametrize("way", ["Escape", "back"])
def test_the_large_view_closes_and_keeps_the_place(visit, way):
    page = visit(hash="#q=red")
    page.evaluate("scrollTo(0, 500)")
    tile = page.locator(".tile").nth(20)
    tile.click()
    place = page.evaluate("scrollY")
    wait_for_name(page, "20.png")
    if way == "back":
        page.go_back()
    else:
        page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")
    assert page.evaluate("scrollY") == place
    assert page.url.endswith("#q=red")
    assert tile.evaluate("(tile) => document.activeElement === tile")


def test_a_swipe_shows_the_next_photograph_and_a_swipe_down_closes(visit):
    page = visit(PHONE, "#q=red")
    page.locator(".tile").first.tap()
    wait_for_name(page, "0.png")
    swipe = """([x, y]) => {
      const touch = (x, y) => new Touch({ identifier: 1, target: stage, clientX: x, clientY: y });
      stage.dispatchEvent(new TouchEvent("touchstart", { touches: [touch(200, 300)] }));
      stage.dispatchEvent(new TouchEvent("touchend", { changedTouches: [touch(200 + x, 300 + y)] }));
    }"""
    page.evaluate(swipe, [-120, 10])
    wait_for_name(page, "1.png")
    page.evaluate(swipe, [10, 200])
    page.locator("#viewer").wait_for(state="hidden")


def test_similar_photographs_are_found_from_the_large_view(visit):
    page = visit()
    page.get_by_role("button", name="197.png").click()
    page.get_by_role("button", name="Similar").click()
    page.get_by_role("button", name="Remove: example image").wait_for()
    page.wait_for_function(
        "() => document.querySelector('figcaption span')?.textContent === '197.png'"
    )
    page.get_by_role("searchbox").fill("red")
    page.keyboard.press("Enter")
    page.get_by_text("Image and “red” combined").wait_for()


@pytest.mark.parametrize(
    ("event", "kind", "holder"),
    [("drop", "DragEvent", "dataTransfer"), ("paste", "ClipboardEvent", "clipboardData")],
)
def test_an_example_image_is_dropped_or_pasted(visit, photographs, event, kind, holder):
    page = visit()
    page.evaluate(
        """([event, kind, holder, content]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(content)], "a.png", { type: "image/png" }));
          document.body.dispatchEvent(new window[kind](event, { [holder]: data, bubbles: true, cancelable: true }));
        }""",
        [event, kind, holder, [*(photographs / "150.png").read_bytes()]],
    )
    page.get_by_role("button", name="Remove: example image").wait_for()
    page.locator("#grid:not(.loading):not(.timeline) .tile").first.wait_for()
    assert int(names(page)[0].removesuffix(".png")) == pytest.approx(150, abs=3)


def test_the_keyboard_alone_is_enough(visit):
    page = visit(hash="#q=red")
    page.keyboard.press("ArrowDown")  # from the field into the grid
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_for_name(page, "1.png")
    page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")
    page.keyboard.press("ArrowDown")
    top = "document.activeElement.getBoundingClientRect().top"
    down = page.evaluate(top)
    page.keyboard.press("ArrowUp")
    assert down > page.evaluate(top)
    back = """document.activeElement.dispatchEvent(
      new KeyboardEvent("keydown", { key: "ArrowLeft", altKey: true, bubbles: true, cancelable: true }))"""
    assert page.evaluate(back)  # is left to the browser
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"


def test_every_control_has_a_name(visit):
    page = visit(PHONE)
    page.locator(".tile").first.click()
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input:not([hidden]), select")]
          .filter((each) => !(each.ariaLabel || each.textContent.trim() || each.labels?.length))
          .map((each) => each.outerHTML)"""
    )
    assert nameless == []


def test_a_finger_meets_every_button_of_the_phone(visit):
    page = visit(PHONE)
    small = """[...document.querySelectorAll("button")].filter((each) => each.checkVisibility())
      .filter((each) => Math.min(each.offsetHeight, each.offsetWidth) < %d).map((each) => each.outerHTML)"""
    assert page.evaluate(small % TARGET) == []
    page.locator(".tile").first.tap()
    assert page.evaluate(small % TARGET) == []


@pytest.fixture
def indexing_page(browser, index, photographs):
    """The page while photographs are indexed."""
    with (
        Index.open(index.folder, index.runtime) as searched,
        Indexing(index, lambda report, files: None) as indexing,
        serving(SearchServer(searched, port=0, indexing=indexing)) as server,
    ):
        indexing.add([photographs])
        page = Visit(browser, server.url, **DESKTOP).page
        yield page
        page.close()


def test_progress_is_shown_while_photographs_are_indexed(indexing_page):
    indexing_page.get_by_text("200 photographs, newest first").wait_for()
    indexing_page.locator(".tile").first.wait_for()
    indexing_page.locator("#indexing").wait_for(state="hidden")


def test_what_is_typed_stays_while_photographs_are_indexed(indexing_page):
    query = indexing_page.get_by_role("searchbox")
    query.fill("red")
    indexing_page.locator("#indexing").wait_for(state="hidden")
    assert query.input_value() == "red"


def test_an_empty_index_says_what_to_do(browser, index):
    with serving(SearchServer(index, port=0)) as server:
        page = Visit(browser, server.url, **DESKTOP).page
        page.get_by_text("Run in a terminal: dcclip FOLDER_OF_PHOTOS").wait_for()
        page.close()


def test_a_video_plays_from_the_moment_that_was_found(browser, index, tmp_path):
    index.add(film(tmp_path / "videos" / "clip.webm", "red", "blue").parent)
    with serving(SearchServer(index, port=0)) as server:
        page = Visit(browser, server.url + "#q=blue", **DESKTOP).page
        page.locator(".badge").click()
        page.wait_for_function("() => document.querySelector('#video').currentTime >= 10")
        page.close()

"""The search page in Chromium, on a desktop in English and on a phone in Chinese."""

import os
from contextlib import ExitStack
from importlib.resources import files

import pytest
from PIL import Image

from modeling_dcclip.search.index import Index
from modeling_dcclip.search.serve.page_server import PAGE, Indexing, SearchServer
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
    """Function that opens the page in a window, at an address below it; no script of it may fail.

    A test names it after what a server of its own reads, which then outlives the page.
    """
    with ExitStack() as stack:

        def close(visit):
            visit.page.close()
            assert not visit.errors
            assert not visit.foreign()

        def open_page(window=DESKTOP, hash="", server=None):
            url = address if server is None else stack.enter_context(serving(server)).url
            visit = Visit(browser, url + hash, **window)
            stack.callback(close, visit)
            visit.page.set_default_timeout(20_000)
            visit.page.locator(".tile, .empty").first.wait_for()
            return visit.page

        yield open_page


def search(page, text):
    """Type a query, and wait for its answer."""
    page.get_by_role("searchbox").fill(text)
    with page.expect_response("**/search?*"):
        page.keyboard.press("Enter")
    page.locator("#grid:not(.loading)").wait_for()


def names(page):
    return [
        os.path.basename(path)
        for path in page.locator(".tile").evaluate_all("(all) => all.map((tile) => tile.title)")
    ]


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
    assert page.locator("main h2").first.text_content() == month
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
    page.locator("#years > button", has_text="2020").click()
    page.get_by_role("button", name=" 51.png").wait_for()
    page.locator("#years > [aria-current=true]", has_text="2020").wait_for()
    assert page.locator("#years div button").all_text_contents()[0] == "Dec5"


def test_scrolling_loads_all_results_and_removes_those_far_away(visit):
    page = visit(PHONE, hash="#q=red")
    seen = {*names(page)}
    for number in (100, 199):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.locator(f".tile[title$='/{number}.png']").wait_for()
        seen |= {*names(page)}
    assert len(seen) == 200
    page.wait_for_function("document.querySelectorAll('.tile').length === 100")
    page.evaluate("scrollTo(0, 0)")
    page.locator(".tile[title$='/0.png']").wait_for()


def test_details_are_shown_when_asked_for(visit):
    page = visit()
    assert not page.locator("figcaption").count()
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Names and scores").click()
    assert "2023-10-" in page.locator("figcaption").first.text_content()


def test_what_fits_stands_above_a_line(calibrated, visit):
    page = visit(server=SearchServer(calibrated, port=0))
    search(page, "red")
    assert status(page) == "1 fit, 4 others below"
    assert page.locator("main h2").all_text_contents() == ["Less likely"]
    sections = page.locator("section:visible")
    assert [sections.nth(n).locator("figure").count() for n in (0, 1)] == [1, 4]
    # the words that were found are marked on the tile and in the viewer
    assert page.locator("figure").locator(".badge").all_text_contents() == ["name"]
    page.locator(".tile").first.click()
    page.locator("#viewer mark").first.wait_for()
    assert page.locator("#viewer mark").all_text_contents() == ["red"]
    page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")
    page.locator("#path").evaluate("(field) => (field.value = 'red')")
    search(page, "blue")
    assert status(page) == "Nothing like it was found. The closest ones are below."
    with page.expect_response("**/search?*"):
        page.locator("#sort").select_option("date")
    page.locator("#grid:not(.loading)").wait_for()
    assert status(page) == "Nothing like it was found. The closest ones are below."


def test_the_large_view_tells_the_size_and_copies_the_path(visit, photographs):
    page = visit(hash="#q=red")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".tile").first.click()
    wait_for_name(page, "0.png")
    assert page.locator("#size").text_content() == f"{(photographs / '0.png').stat().st_size} B"
    page.get_by_role("button", name="Copy path").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == str(photographs / "0.png")


def test_what_was_left_out_is_listed(filled, photos, visit):
    (photos / "broken.jpg").write_bytes(b"no")
    filled.add()
    page = visit(server=SearchServer(filled, port=0))
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="What was left out").click()
    listed = page.locator("#dialog li")
    listed.wait_for()
    assert listed.text_content() == str(photos / "broken.jpg")
    page.get_by_role("button", name="Close").click()
    page.locator("#dialog").wait_for(state="hidden")


def test_dates_in_the_query_are_a_chip_that_can_be_removed(visit):
    page = visit()
    search(page, "2020年夏天的red")
    chip = page.locator(".chip")
    assert chip.text_content().startswith("2020-06 – 2020-08")
    assert {*names(page)} == {f"{number}.png" for number in range(22, 35)}
    page.get_by_role("button", name="Remove: 2020-06 – 2020-08").click()
    page.locator(".tile").nth(59).wait_for()
    assert chip.count() == 0


def test_filters_without_a_photograph_say_so_and_can_be_removed(visit):
    page = visit()
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Path").click()
    page.keyboard.type("*/nowhere/*")  # a slash elsewhere leads to the query
    page.keyboard.press("Enter")
    page.get_by_text("No photograph passes the filters").wait_for()
    page.get_by_role("button", name="Remove the filters").click()
    page.locator(".tile").first.wait_for()
    assert status(page).startswith("200 ")


def test_esc_clears_and_back_returns_to_the_search(visit):
    page = visit()
    search(page, "red -green")
    assert "without green" in status(page)
    page.keyboard.press("Escape")
    page.locator("main h2").first.wait_for()
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
      const send = (kind, x, y) => large.dispatchEvent(new PointerEvent(
        kind, { pointerId: 9, pointerType: "touch", clientX: x, clientY: y, bubbles: true }));
      stage.setPointerCapture = null;  // which a finger of a script does not have
      send("pointerdown", 200, 300);
      send("pointerup", 200 + x, 300 + y);
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
    page.wait_for_function("() => document.querySelector('.tile')?.title.endsWith('/197.png')")
    page.get_by_role("searchbox").fill("red")
    page.keyboard.press("Enter")
    page.get_by_text("Image + “red”").wait_for()


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


def test_a_finger_meets_every_button_of_the_phone(visit):
    page = visit(PHONE)
    small = """[...document.querySelectorAll("button")].filter((each) => each.checkVisibility())
      .filter((each) => Math.min(each.offsetHeight, each.offsetWidth) < %d).map((each) => each.outerHTML)"""
    assert page.evaluate(small % TARGET) == []
    page.locator(".tile").first.tap()
    assert page.evaluate(small % TARGET) == []


@pytest.fixture
def indexing_server(index, photographs):
    """A server while photographs are indexed."""
    with (
        Index.open(index.folder, index.runtime) as searched,
        Indexing(index, lambda report, files: None) as indexing,
    ):
        indexing.add([photographs])
        yield SearchServer(searched, port=0, indexing=indexing)


def test_progress_is_shown_and_what_is_typed_stays_while_photographs_are_indexed(
    indexing_server, visit
):
    page = visit(server=indexing_server)
    page.route("**/status", lambda route: None)  # waits until the route is removed
    with page.expect_request("**/status"):
        page.reload()
    query = page.get_by_role("searchbox")
    query.fill("red")
    page.unroute("**/status")
    page.get_by_text("200 photographs, newest first").wait_for()
    page.locator("#indexing").wait_for(state="hidden")
    assert query.input_value() == "red"


def test_an_empty_index_says_what_to_do(index, visit):
    page = visit(server=SearchServer(index, port=0))
    page.get_by_text("Run in a terminal: dcclip FOLDER_OF_PHOTOS").wait_for()


def test_a_video_plays_from_the_moment_that_was_found(index, tmp_path, visit):
    index.add(film(tmp_path / "videos" / "clip.webm", "red", "blue").parent)
    page = visit(hash="#q=blue", server=SearchServer(index, port=0))
    page.locator(".badge").click()
    page.wait_for_function("() => document.querySelector('#video').currentTime >= 10")


def test_a_photograph_is_in_the_address_and_survives_a_reload(visit):
    page = visit(hash="#q=red")
    page.locator(".tile").nth(2).click()
    wait_for_name(page, "2.png")
    page.keyboard.press("ArrowRight")
    wait_for_name(page, "3.png")
    assert "photo=" in page.url
    page.reload()
    wait_for_name(page, "3.png")
    page.keyboard.press("ArrowRight")
    wait_for_name(page, "4.png")
    page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")
    assert page.url.endswith("#q=red")


def test_a_photograph_of_the_timeline_opens_from_its_address_alone(visit, browser, address):
    page = visit()
    page.locator("#years > button", has_text="2020").click()
    page.get_by_role("button", name=" 51.png").click()
    wait_for_name(page, "51.png")
    other = visit(hash="#" + page.url.partition("#")[2])
    wait_for_name(other, "51.png")
    other.keyboard.press("ArrowRight")
    wait_for_name(other, "50.png")
    other.keyboard.press("Escape")
    other.locator("#viewer").wait_for(state="hidden")
    assert "photo=" not in other.url


def test_double_click_and_ctrl_wheel_zoom_and_the_wheel_alone_turns(visit):
    page = visit(hash="#q=red")
    page.locator(".tile").first.click()
    wait_for_name(page, "0.png")
    page.locator("#large.sharp").wait_for()
    stage = page.locator("#stage")
    page.mouse.dblclick(600, 400)
    assert "scale(2.5)" in page.locator("#large").evaluate("(image) => image.style.transform")
    page.mouse.dblclick(600, 400)
    assert "zoomed" not in (stage.get_attribute("class") or "")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    page.locator("#stage.zoomed").wait_for()
    page.mouse.wheel(0, 100)
    wait_for_name(page, "1.png")
    assert "zoomed" not in (stage.get_attribute("class") or "")


def test_two_fingers_zoom(visit):
    page = visit(PHONE, "#q=red")
    page.locator(".tile").first.tap()
    wait_for_name(page, "0.png")
    page.evaluate("""() => {
      const send = (kind, id, x) => large.dispatchEvent(new PointerEvent(
        kind, { pointerId: id, pointerType: "touch", clientX: x, clientY: 300, bubbles: true }));
      stage.setPointerCapture = null;
      send("pointerdown", 1, 150); send("pointerdown", 2, 200);
      send("pointermove", 1, 100); send("pointermove", 2, 250);
      send("pointerup", 1, 100); send("pointerup", 2, 250);
    }""")
    assert "scale(3)" in page.locator("#large").evaluate("(image) => image.style.transform")
    assert page.locator("#name").text_content() == "0.png"


def test_the_month_stays_in_view_and_nothing_is_drawn_far_away(visit):
    page = visit(PHONE)
    page.locator("#years > button", has_text="2021").click()
    page.locator("#years > [aria-current=true]", has_text="2021").wait_for()
    page.wait_for_timeout(200)
    page.evaluate("scrollBy(0, 60)")
    stuck = """[...document.querySelectorAll("h2")].filter((each) => {
      const top = each.getBoundingClientRect().top;
      return top >= header_ && top < header_ + 60;
    }).map((each) => each.textContent)"""
    height = page.locator("header").evaluate("(header) => header.offsetHeight")
    assert page.evaluate(stuck.replace("header_", str(height)))
    near = page.locator(".tile").evaluate_all(
        "(all) => all.every((tile) => Math.abs(tile.getBoundingClientRect().top) < 3000)"
    )
    assert near


def test_results_by_date_have_a_heading_only_after_full_rows(visit):
    page = visit(hash="#q=red&sort=date")
    page.locator(".tile").nth(30).wait_for()
    headings = page.locator("main h2").all_text_contents()
    assert 10 < len(headings) < 45  # 200 photographs of 46 months
    assert " – " in headings[0]
    full = page.locator("section").evaluate_all(
        "(all) => all.every((each) => each.querySelector('.row:not(.open)') || !each.querySelector('.row'))"
    )
    assert full


def test_dates_have_a_picker_and_show_a_month_as_its_days(visit):
    page = visit(hash="#after=2021-02&before=2021-02")
    page.get_by_role("button", name="Filters").click()
    assert page.get_by_label("From", exact=True).input_value() == "2021-02-01"
    assert page.get_by_label("To", exact=True).input_value() == "2021-02-28"
    assert page.get_by_label("To", exact=True).get_attribute("type") == "date"
    page.get_by_role("button", name="Remove: 2021-02").wait_for()


@pytest.mark.parametrize(("window", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_axe_finds_nothing_in_any_state(visit, window, scheme):
    script = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    page = visit(window | {"color_scheme": scheme, "bypass_csp": True})
    page.evaluate(script)

    def check():
        found = page.evaluate(
            "axe.run().then(({ violations }) => violations.map(({ id, nodes }) => [id, nodes[0].failureSummary]))"
        )
        assert found == []

    check()
    page.locator("#filter").click()
    page.locator("#more").click()
    check()
    page.locator("#left-out").click()
    page.locator("#causes p").wait_for()
    check()
    page.keyboard.press("Escape")
    page.locator(".tile").first.click()
    check()


def test_traditional_characters_are_made_of_the_simplified_ones(browser, address):
    opencc = pytest.importorskip("opencc")
    simplified = (PAGE / "zh.js").read_text(encoding="utf-8")
    command = "python -m opencc -c s2twp -i zh.js -o zh-hant.js"
    converted = opencc.OpenCC("s2twp").convert(simplified)
    assert (PAGE / "zh-hant.js").read_text(encoding="utf-8") == converted, command
    page = Visit(browser, address, **DESKTOP | {"locale": "zh-HK"}).page
    page.get_by_text("200 張照片，最新的在前").wait_for()
    assert page.locator("html").get_attribute("lang") == "zh-Hant"
    page.close()

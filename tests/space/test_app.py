"""The Space in a process without this package, and in a real browser."""

import os
import re
from collections.abc import Iterator

import pytest

from modeling_dcclip.runtime_dcclip import Runtime
from tests.browser import Visit, serving
from tests.local_server import free_port
from tests.space.conftest import SPACE
from tests.tiny import ROOT

pytestmark = pytest.mark.slow

PHONE_HEIGHT = 664  # pixels that a browser leaves of a phone's 844
LABELS = ["红", "绿", "blue", "狗"]
# a Space installs neither `training` nor `modeling_dcclip`
ISOLATED_LOAD = """
import importlib.util, runpy, sys
from pathlib import Path
root, app = sys.argv[1:3]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(root)]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in f"{getattr(f, '__module__', '')}{f!r}".lower()]
assert importlib.util.find_spec("modeling_dcclip") is None and importlib.util.find_spec("training") is None
sys.path.insert(0, str(Path(app).parent))
sys.argv[:] = sys.argv[2:]
runpy.run_path(app, run_name="__main__")
"""


@pytest.fixture(scope="module")
def address(app, browser, model_folder, image_folder, tmp_path_factory):
    cwd, port = tmp_path_factory.mktemp("app"), free_port()
    arguments = ["-c", ISOLATED_LOAD, str(ROOT), str(SPACE / "app.py"), "--model", str(model_folder)]
    arguments += ["--images", str(image_folder), "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with serving(arguments, port, cwd, environment) as address:
        yield address


def test_labels_are_split_at_commas_semicolons_and_lines(app):
    assert app.parse_labels(" 狐狸，狗、cat; a dog；\n\n狗,") == ["狐狸", "狗", "cat", "a dog"]


def test_invalid_input_shows_a_message(app, space, model_folder, tmp_path):
    demo = app.Demo(space.Encoder(str(model_folder)), None)
    image = str(model_folder / "example.png")
    assert "Drop an image" in demo.label(None, "fox", "{}")
    assert "Enter labels" in demo.label(image, " ,， ", "{}")
    assert "101 labels" in demo.label(image, ",".join(map(str, range(101))), "{}")
    assert "has no {}" in demo.label(image, "fox", "an image")
    (tmp_path / "a.png").write_bytes(b"not an image")
    assert "cannot be opened" in demo.label(str(tmp_path / "a.png"), "fox", "{}")
    assert "no images" in demo.search("fox")


@pytest.fixture
def visit(browser, address) -> Iterator[Visit]:
    """The page after the example image of the model is labelled."""
    visit = Visit(browser, address)
    visit.page.wait_for_selector("#answer .bars li")
    yield visit
    assert not visit.foreign()
    visit.page.close()


def test_a_broken_file_shows_a_message_and_the_next_image_is_labelled(visit, tmp_path, image_folder):
    (tmp_path / "a.png").write_bytes(b"not an image")
    visit.page.set_input_files("#image input[type=file]", str(tmp_path / "a.png"))
    visit.page.wait_for_selector("#answer .note:has-text('cannot be opened')")
    assert visit.page.locator("#answer .bars").count() == 0
    visit.page.set_input_files("#image input[type=file]", str(image_folder / "red.png"))
    visit.page.wait_for_selector("#answer .bars li")


def test_an_uploaded_image_gets_the_scores_of_the_model_for_chinese_labels(visit, model_folder, image_folder):
    page, file = visit.page, image_folder / "red.png"
    page.fill("#labels textarea", "，".join(LABELS))
    page.click("#image button[aria-label='Remove Image']")
    page.wait_for_selector("#answer .note:has-text('Drop an image')")
    page.set_input_files("#image input[type=file]", str(file))
    page.wait_for_selector(f"#answer .bars li >> text={LABELS[0]}")
    rows = page.locator("#answer .bars li").all()
    found = [(row.locator(".name").inner_text(), row.locator(".score").inner_text()) for row in rows]
    assert found == [(label, f"{score:.1%}") for label, score in Runtime(model_folder).zero_shot(file, LABELS)]
    assert re.match(r"\d+ ms · 1 image, 4 labels", page.inner_text("#answer .note"))


def test_search_works_in_both_languages(visit):
    visit.page.get_by_role("tab").nth(1).click()
    for query in ("绿", "green"):
        visit.page.fill("#query textarea, #query input", "")
        visit.page.wait_for_selector("#found .note:has-text('Enter a search text')")
        visit.page.fill("#query textarea, #query input", query)
        visit.page.wait_for_selector("#found .hits li >> text=绿")
        assert visit.page.locator("#found img").first.evaluate("image => image.decode().then(() => image.width)")
        assert "top 3 of 3 images" in visit.page.inner_text("#found .note")


def test_the_page_fits_a_phone(browser, address):
    visit = Visit(browser, address, width=390)
    visit.page.wait_for_selector("#answer .bars li")
    assert not visit.overflows()
    assert visit.page.get_by_role("tab").count() == 2  # no tab is hidden in a menu
    visit.page.set_viewport_size({"width": 390, "height": PHONE_HEIGHT})
    for number, selector in enumerate(("#answer .bars li", "#found .hits li")):
        visit.page.get_by_role("tab").nth(number).click()
        visit.page.wait_for_selector(selector)
        box = visit.page.locator(selector).first.bounding_box()
        assert box["y"] + box["height"] < PHONE_HEIGHT, selector
    visit.page.close()


def test_a_missing_model_is_a_one_line_error_with_the_next_step(app, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["app.py", "--model", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code == 2
    assert "space: model: " in capsys.readouterr().err


def test_uploads_are_limited(app, model_folder, monkeypatch):
    launched: dict = {}
    monkeypatch.setattr("sys.argv", ["app.py", "--model", str(model_folder)])
    monkeypatch.setattr("gradio.Blocks.launch", lambda page, **options: launched.update(options))
    app.main()
    assert launched["max_file_size"] == "20mb" and launched["allowed_paths"] == [model_folder / "example.png"]

"""The page in a real browser compared with the same model in Python."""

import base64
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

pytestmark = pytest.mark.slow

LABELS = ["红苹果", "绿色的青蛙", "red apple", "keycap", "狗"]
ENCODE = """async (images) => {
  const { Encoder } = await import("./encoder.js");
  const encoder = await Encoder.load(await (await fetch("site.json")).json());
  const embeddings = [];
  for (const image of images) {
    const blob = await (await fetch(`data:image/png;base64,${image}`)).blob();
    embeddings.push(Array.from(await encoder.encodeImage(blob)));
  }
  return embeddings;
}"""


@torch.inference_mode()
def compare(model, processor, images: list[Image.Image], texts: list[str]):
    """What the model gives for images and texts in Python."""
    return model(**processor(images=images, text=texts, return_tensors="pt"))


def test_an_image_with_chinese_labels_gets_the_scores_of_python(visit, model, processor, photos):
    page = visit.page
    page.fill("#labels", "，".join(LABELS))
    before = page.inner_text("#answer")
    page.set_input_files("#file", str(photos / "0.png"))
    page.wait_for_function(
        "text => document.getElementById('answer').innerText !== text", arg=before
    )
    outputs = compare(model, processor, [Image.open(photos / "0.png")], LABELS)
    expected = dict(zip(LABELS, outputs.logits_per_image[0].softmax(0).tolist(), strict=True))
    names = page.locator("#answer li .name").all_inner_texts()
    scores = page.locator("#answer li .score").all_inner_texts()
    found = {
        name: float(score.rstrip("%")) / 100 for name, score in zip(names, scores, strict=True)
    }
    assert found == pytest.approx(expected, abs=5e-3)
    assert names[0] == max(expected, key=expected.get)
    assert "ms" in page.inner_text("#answer-note")


def test_preprocessing_equals_the_processor_for_every_shape(visit, model, processor, photos):
    files = sorted(photos.glob("*.png"))
    sent = [base64.b64encode(file.read_bytes()).decode() for file in files]
    found = F.normalize(torch.tensor(visit.page.evaluate(ENCODE, sent)), dim=-1)
    expected = compare(model, processor, [*map(Image.open, files)], LABELS).image_embeds
    cosines = (found * expected).sum(-1)
    others = (expected @ expected.T)[~torch.eye(len(files), dtype=torch.bool)]
    assert cosines.min() > 0.99, cosines
    assert others.median() < 0.99  # otherwise any two images would pass


@pytest.mark.parametrize("query", ["红苹果", "green frog"])
def test_a_search_of_chosen_images_ranks_as_python_does(visit, model, processor, photos, query):
    page = visit.page
    files = sorted(photos.glob("[0134].png"))  # the browser reduces the large one in two steps
    page.click("#tab-search")
    page.fill("#query", query)
    page.set_input_files("#images", [*map(str, files)])
    page.locator("#found li").nth(len(files) - 1).wait_for()
    outputs = compare(model, processor, [*map(Image.open, files)], [query])
    cosines = (outputs.image_embeds @ outputs.text_embeds[0]).tolist()
    expected = {file.name: cosine for file, cosine in zip(files, cosines, strict=True)}
    tiles = page.locator("#found li").all()
    found = {tile.inner_text(): float(tile.get_attribute("title").split()[-1]) for tile in tiles}
    assert found == pytest.approx(expected, abs=0.02)  # a canvas decodes and resizes differently
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_chosen_files_that_do_not_decode_are_named(visit, photos, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    visit.page.click("#tab-search")
    visit.page.set_input_files("#images", [str(photos / "0.png"), str(tmp_path / "broken.png")])
    visit.page.wait_for_selector("#found li")
    assert "1 of 2 images do not decode" in visit.page.inner_text("#added-note")
    assert visit.page.locator("#found li").count() == 1


def test_a_file_that_is_not_an_image_shows_a_message(visit, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    visit.page.set_input_files("#file", str(tmp_path / "a.png"))
    visit.page.wait_for_function(
        "() => document.getElementById('answer-note').textContent.includes('cannot decode')"
    )
    assert visit.page.locator("#answer li").count() == 0


def test_a_missing_model_file_shows_an_error_with_its_name(browser, address):
    page = browser.new_page()
    page.route("**/model/tokenizer.json", lambda route: route.fulfill(status=404))
    page.goto(address)
    page.wait_for_selector(".status.error")
    assert "tokenizer.json" in page.inner_text("#status")
    page.close()

"""The page in a real browser compared with the same model in Python."""

import base64
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from modeling_dcclip.image_dcclip import to_rgb

pytestmark = pytest.mark.slow

LABELS = ["红苹果", "绿色的青蛙", "red apple", "keycap", "狗"]
# full width, combining marks, no-break space, compatibility forms, emoji: normalisers often differ here
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


def encode(
    model, processor, images: list[Image.Image], texts: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        image_embeddings = [
            model.get_image_features(**processor(images=image, return_tensors="pt")).pooler_output
            for image in images
        ]
        text_embeddings = model.get_text_features(
            **processor(text=texts, return_tensors="pt")
        ).pooler_output
    return F.normalize(torch.cat(image_embeddings), dim=-1), F.normalize(text_embeddings, dim=-1)


def test_an_image_with_chinese_labels_gets_the_scores_of_python(visit, model, processor, photos):
    visit.page.fill("#labels", "，".join(LABELS))
    before = visit.page.inner_text("#answer")
    visit.page.set_input_files("#file", str(photos / "0.png"))
    visit.page.wait_for_function(
        "text => document.getElementById('answer').innerText !== text", arg=before
    )
    image_embeddings, text_embeddings = encode(
        model, processor, [Image.open(photos / "0.png")], LABELS
    )
    scores = (model.logit_scale.exp() * image_embeddings @ text_embeddings.T)[0].softmax(0).tolist()
    expected = dict(sorted(zip(LABELS, scores, strict=True), key=lambda pair: -pair[1]))
    rows = [
        (row.locator(".name"), row.locator(".score"))
        for row in visit.page.locator("#answer li").all()
    ]
    found = {name.inner_text(): float(score.inner_text().rstrip("%")) / 100 for name, score in rows}
    assert found == pytest.approx(expected, abs=5e-3)
    assert next(iter(found)) == next(iter(expected))
    assert "ms" in visit.page.inner_text("#answer-note")


def test_preprocessing_equals_the_processor_for_every_shape(visit, model, processor, photos):
    files = sorted(photos.glob("*.png"))
    sent = [base64.b64encode(file.read_bytes()).decode() for file in files]
    found = F.normalize(torch.tensor(visit.page.evaluate(ENCODE, sent)), dim=-1)
    expected, _ = encode(model, processor, [to_rgb(Image.open(file)) for file in files], LABELS)
    cosines = (found * expected).sum(-1)
    others = (expected @ expected.T)[~torch.eye(len(files), dtype=torch.bool)]
    assert cosines.min() > 0.99, dict(
        zip([file.name for file in files], cosines.tolist(), strict=True)
    )
    assert others.median() < 0.99  # otherwise any two images would pass


@pytest.mark.parametrize("query", ["红苹果", "green frog"])
def test_a_search_of_chosen_images_ranks_as_python_does(visit, model, processor, photos, query):
    files = sorted(photos.glob("[0134].png"))  # the browser reduces the large one in two steps
    visit.page.click("#tab-search")
    visit.page.fill("#query", query)
    visit.page.set_input_files("#images", [str(file) for file in files])
    visit.page.wait_for_function(
        "count => document.querySelectorAll('#found li').length === count", arg=len(files)
    )
    opened = [to_rgb(Image.open(file)) for file in files]
    image_embeddings, text_embeddings = encode(model, processor, opened, [query])
    cosines = (image_embeddings @ text_embeddings[0]).tolist()
    expected = dict(zip([file.name for file in files], cosines, strict=True))
    tiles = visit.page.locator("#found li").all()
    found = {tile.inner_text(): float(tile.get_attribute("title").split()[-1]) for tile in tiles}
    assert found == pytest.approx(expected, abs=0.02)  # a canvas decodes and resizes differently
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert visit.page.locator("#found li img").first.evaluate(
        "image => image.decode().then(() => image.naturalWidth)"
    )


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

"""The index of the Space: built once, read again, true to the model."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.space.conftest import SPACE


@pytest.fixture(scope="module")
def encoder(space, model_folder):
    return space.Encoder(str(model_folder))


def test_a_folder_is_indexed_once_without_what_does_not_decode(space, encoder, image_folder, texts, tmp_path):
    images = space.open_images(str(image_folder))
    index = space.Index.open(encoder, images, tmp_path)
    assert len(images.titles) == len(texts) + 1 and len(index.titles) == len(texts)

    def fail(*_):
        raise AssertionError("encoded again")

    idle = SimpleNamespace(fingerprint=encoder.fingerprint, encode_images=fail)
    again = space.Index.open(idle, images, tmp_path)
    assert torch.equal(again.embeddings, index.embeddings) and again.titles == index.titles
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_another_model_or_a_changed_image_gets_another_index(space, encoder, image_folder, images, tmp_path):
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in image_folder.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    seen = {space.open_images(str(folder)).fingerprint for folder in (image_folder, changed)}
    images[1].save(next(path for path in sorted(changed.iterdir()) if path.name != "broken.png"))
    seen.add(space.open_images(str(changed)).fingerprint)
    assert len(seen) == 3


def test_search_finds_what_the_model_finds(space, encoder, model, processor, image_folder, tmp_path):
    index = space.Index.open(encoder, space.open_images(str(image_folder)), tmp_path)
    query = encoder.encode_texts(["红苹果"])[0]
    hits = index.search(query, 3)
    files = sorted(path for path in image_folder.iterdir() if path.name != "broken.png")
    with torch.inference_mode():
        pixels = processor(images=[Image.open(path) for path in files], return_tensors="pt")
        seen = F.normalize(model.get_image_features(**pixels).pooler_output, dim=-1)
    scores, order = (seen @ query).topk(3)
    assert [hit.title[""] for hit in hits] == [files[number].stem for number in order]
    assert [hit.score for hit in hits] == pytest.approx(scores.tolist(), abs=1e-5)
    assert hits[0].thumbnail[8:12] == b"WEBP"


def test_transparent_images_are_put_on_white(space):
    from encoder import on_white

    assert on_white(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert on_white(Image.new("L", (1, 1), 7)).getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize("source", ["no/such/folder", "no.such.module:function", "json:no_such_function"])
def test_images_that_are_not_there_are_named(space, source):
    with pytest.raises(ValueError, match="images: "):
        space.open_images(source)


def test_a_folder_without_images_and_one_of_broken_ones_are_named(space, encoder, tmp_path):
    with pytest.raises(ValueError, match="has no image"):
        space.open_images(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of the 1 images decodes"):
        space.Index.open(encoder, space.open_images(str(tmp_path)), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_space_imports_nothing_of_this_project_at_the_top():
    for path in SPACE.glob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.startswith(("from training", "import training", "from modeling"))]


def test_a_model_that_is_not_there_is_named(space, tmp_path: Path):
    with pytest.raises(ValueError, match=r"model: .*python -m training\.demo"):
        space.Encoder(str(tmp_path / "none"))

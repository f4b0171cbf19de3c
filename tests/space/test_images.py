"""The image index of the Space: built once, cached, equal to the model's ranking."""

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


def test_a_folder_is_indexed_once_without_images_that_do_not_decode(space, encoder, image_folder, texts, tmp_path):
    images = space.open_images(str(image_folder))
    index = space.Index.open(encoder, images, tmp_path)
    assert len(images.titles) == len(texts) + 1 and len(index.titles) == len(texts)

    def fail(*_):
        raise AssertionError("encoded again")

    unused = SimpleNamespace(fingerprint=encoder.fingerprint, encode_images=fail)
    cached = space.Index.open(unused, images, tmp_path)
    assert torch.equal(cached.embeddings, index.embeddings) and cached.titles == index.titles
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_changed_images_have_another_fingerprint(space, encoder, image_folder, images, tmp_path):
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in image_folder.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    fingerprints = {space.open_images(str(folder)).fingerprint for folder in (image_folder, changed)}
    images[1].save(next(path for path in sorted(changed.iterdir()) if path.name != "broken.png"))
    fingerprints.add(space.open_images(str(changed)).fingerprint)
    assert len(fingerprints) == 3


def test_search_ranks_as_the_model_does(space, encoder, model, processor, image_folder, tmp_path):
    index = space.Index.open(encoder, space.open_images(str(image_folder)), tmp_path)
    query = encoder.encode_texts(["红苹果"])[0]
    hits = index.search(query, 3)
    files = sorted(path for path in image_folder.iterdir() if path.name != "broken.png")
    with torch.inference_mode():
        pixels = processor(images=[Image.open(path) for path in files], return_tensors="pt")
        embeddings = F.normalize(model.get_image_features(**pixels).pooler_output, dim=-1)
    scores, order = (embeddings @ query).topk(3)
    assert [hit.title[""] for hit in hits] == [files[number].stem for number in order]
    assert [hit.score for hit in hits] == pytest.approx(scores.tolist(), abs=1e-5)
    assert hits[0].thumbnail[8:12] == b"WEBP"


def test_images_are_prepared_as_in_training(encoder):
    assert encoder.to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert encoder.to_rgb(Image.new("I;16", (1, 1), 257 * 7)).getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize("source", ["no/such/folder", "no.such.module:function", "json:no_such_function"])
def test_missing_images_raise_an_error_with_the_field(space, source):
    with pytest.raises(ValueError, match="images: "):
        space.open_images(source)


def test_a_folder_without_images_or_with_broken_ones_raises_an_error(space, encoder, tmp_path):
    with pytest.raises(ValueError, match="has no image"):
        space.open_images(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of the 1 images decodes"):
        space.Index.open(encoder, space.open_images(str(tmp_path)), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_space_imports_nothing_of_this_project_at_module_level():
    for path in SPACE.glob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.startswith(("from training", "import training", "from modeling"))]


def test_a_missing_model_raises_an_error_with_its_name(space, tmp_path: Path):
    with pytest.raises(ValueError, match=r"model: .*python -m training\.demo"):
        space.Encoder(str(tmp_path / "none"))

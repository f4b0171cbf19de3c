"""The model of the Space: the runtime of an exported folder, without PyTorch."""

import re

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.space.conftest import SPACE

PHOTO_MODEL = SPACE.parent / "dcclip-tiny-photo"


@pytest.fixture(scope="module")
def encoder(space, model_folder):
    return space.Encoder(str(model_folder))


def test_scores_are_those_of_pytorch(encoder, model, processor, image_folder):
    path, labels = sorted(image_folder.glob("*.png"))[0], ["红苹果", "red apple", "狗"]
    found = dict(encoder.label(str(path), labels, "一张{}的图片"))
    texts = [f"一张{label}的图片" for label in labels]
    with torch.inference_mode():
        outputs = model(**processor(images=Image.open(path).convert("RGB"), text=texts, return_tensors="pt"))
    expected = dict(zip(labels, outputs.logits_per_image[0].softmax(0).tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def album(space, encoder, image_folder):
    return space.Album(encoder, str(image_folder))


def test_images_that_do_not_decode_are_listed(album, texts):
    assert len(album.titles) == len(album.thumbnails) == len(texts) and album.credit == "Emoji: nobody"
    assert [path.name for path, _ in album.failures] == ["broken.png"]


def test_search_ranks_as_the_model_does(album, model, processor, image_folder):
    hits, notes = album.search("红苹果", 3)
    files = sorted(path for path in image_folder.glob("*.png") if path.name != "broken.png")
    with torch.inference_mode():
        pixels = processor(images=[Image.open(path) for path in files], return_tensors="pt")
        embeddings = F.normalize(model.get_image_features(**pixels).pooler_output, dim=-1)
        tokens = processor.tokenizer(["红苹果"], return_tensors="pt")
        query = F.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)[0]
    scores, order = (embeddings @ query).topk(3)
    assert [hit.title for hit in hits] == [files[number].stem for number in order]
    assert [hit.score for hit in hits] == pytest.approx(scores.tolist(), abs=2e-3)
    assert hits[0].thumbnail[:2] == b"\xff\xd8" and not notes
    assert len(album.search("红苹果" * 40, 3)[1]) == 1


@pytest.mark.parametrize(("folder", "cause"), [("none", "there is no folder"), (".", "none of the 1 images")])
def test_a_folder_without_sound_images_is_refused(space, encoder, tmp_path, folder, cause):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"images: {cause}"):
        space.Album(encoder, str(tmp_path / folder))


def test_a_missing_model_or_one_that_is_not_exported_raises_an_error_with_its_name(space, teacher_folder, tmp_path):
    with pytest.raises(ValueError, match=r"model: .*none.*--model"):
        space.Encoder(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"model: .*training/export\.py"):
        space.Encoder(str(teacher_folder))


@pytest.mark.parametrize("labels", [["猫", "狗", "兔子", "a cup of coffee", "a rocket"]])
def test_the_default_labels_are_answered_correctly_by_the_shipped_model(space, labels):
    encoder = space.Encoder(str(PHOTO_MODEL))
    assert encoder.example == PHOTO_MODEL / "example.jpg" and encoder.title == "dcclip-tiny-photo"
    assert encoder.label(str(encoder.example), labels)[0][0] == "猫"
    assert re.search(f'DEFAULT_LABELS = "{", ".join(labels)}"', (SPACE / "app.py").read_text(encoding="utf-8"))

"""The model of the Space: the runtime of an exported folder, without PyTorch."""

import io
import re

import pytest
from PIL import Image

from modeling_dcclip.runtime_dcclip import Runtime
from tests.space.conftest import SPACE

PHOTO_MODEL = SPACE.parent / "dcclip-tiny-photo"


@pytest.fixture(scope="module")
def encoder(space, model_folder):
    return space.Encoder(str(model_folder))


def test_scores_are_those_of_the_runtime(encoder, model_folder, image_folder):
    image, labels = image_folder / "red.png", ["红", "red", "蓝"]
    expected = Runtime(model_folder).zero_shot(image, labels, "一张{}的图片", truncate=True)
    assert encoder.label(str(image), labels, "一张{}的图片") == expected


def test_search_ranks_images_and_lists_files_that_are_not_images(space, encoder, image_folder):
    album = space.Album(encoder, str(image_folder))
    assert album.titles == ["blue", "red", "绿"] and album.credit == "Emoji: nobody"
    assert [path.name for path, _ in album.failures] == ["broken.png"]
    hits, notes = album.search("green", 2)
    assert hits[0].title == "绿" and hits[0].score == pytest.approx(1, abs=0.02) and len(hits) == 2 and not notes
    assert Image.open(io.BytesIO(hits[0].thumbnail)).size == (60, 40) and b"secret" not in hits[0].thumbnail
    assert len(album.search("红 獭" * 40, 3)[1]) == 2


@pytest.mark.parametrize(("folder", "cause"), [("none", "there is no folder"), (".", "none of the 1 images")])
def test_a_folder_without_sound_images_is_refused(space, encoder, tmp_path, folder, cause):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"images: {cause}"):
        space.Album(encoder, str(tmp_path / folder))


def test_a_missing_model_or_one_that_is_not_exported_raises_an_error_with_its_name(space, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=f"model: '{folder}'"):
            space.Encoder(str(folder))


def test_the_default_labels_are_answered_correctly_by_the_shipped_model(space):
    encoder, labels = space.Encoder(str(PHOTO_MODEL)), ["猫", "狗", "兔子", "a cup of coffee", "a rocket"]
    assert encoder.example == PHOTO_MODEL / "example.jpg" and encoder.title == "dcclip-tiny-photo"
    assert encoder.label(str(encoder.example), labels)[0][0] == "猫"
    assert re.search(f'DEFAULT_LABELS = "{", ".join(labels)}"', (SPACE / "app.py").read_text(encoding="utf-8"))

"""Collections in Lance: found with filters and without loading all vectors, and refused if they do not fit."""

import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.index import lance as lance_module
from modeling_dcclip.search.index.bulk import EmbeddedImage, write_index
from modeling_dcclip.search.index.lance import LanceIndex
from tests.color_model import COLORS, save_color_model

pytest.importorskip("lance", reason='pip install -e ".[lance]"')
PHOTOS = 600


@pytest.fixture(scope="module")
def collection(color_model, tmp_path_factory):
    """A collection with shades of the five colors, a copy of its first image, and an image that cannot be read."""
    anchors = Runtime(color_model).encode_texts([*COLORS])
    images = []
    for number in range(PHOTOS):
        color = [*COLORS][number % 5]
        vector = anchors[number % 5].copy()
        vector[12 + number % 3] += 0.001 * (number // 5)
        vector /= np.linalg.norm(vector)
        name = f"2{number % 10:03}/{color}_{number}.jpg"
        taken = f"20{10 + number % 10}-05-06 07:08:09"
        images.append(
            EmbeddedImage(name, vector, None, bytes([number % 256, number // 256] * 8), 1, 0, taken)
        )
    copy = images[0]
    images.append(
        EmbeddedImage("copies/it's 100%.jpg", copy.vector, None, copy.digest, 1, 0, copy.taken)
    )
    images.append(
        EmbeddedImage("damaged.jpg", np.zeros(16, np.float32), "no image", b"", 0, 0, None)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lance_module, "INDEXED_FROM", PHOTOS)
        folder = tmp_path_factory.mktemp("collection") / "lance"
        assert (
            write_index(folder, color_model, [images[:100], images[100:]], use_lance=True)
            == PHOTOS + 1
        )
    return folder


@pytest.fixture
def copied(collection, tmp_path):
    return shutil.copytree(collection, tmp_path / "lance")


def test_colors_are_found_by_an_index_of_the_vectors(collection):
    with LanceIndex(collection) as index:
        assert len(index) == PHOTOS + 1
        assert [each["type"] for each in index._data.list_indices()][-1] == "IVF_RQ"
        for color in COLORS:
            hits = index.search(color, top=30)
            assert len(hits) == 30
            assert all(f"/{color}_" in hit.path for hit in hits)
        first, *_ = index.search("red", top=3)
        assert first.path == "2000/red_0.jpg"
        assert first.copies == ("copies/it's 100%.jpg",)
        assert first.score == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({"after": "2015", "before": "2016-05-06"}, 120),
        ({"every": "05"}, PHOTOS + 1),
        ({"every": "weekend"}, 180),
        ({"every": "christmas"}, 0),
        ({"path": "RED"}, 120),
        ({"path": "*/red_?.jpg"}, 2),
        ({"path": "it's 100%"}, 1),
        ({"path": "d_10"}, 1 + 2),
        ({"path": "nowhere"}, 0),
    ],
)
def test_dates_and_paths_limit_what_is_found(collection, limits, count):
    with LanceIndex(collection) as index:
        found = index.search("red", top=PHOTOS, **limits)
        assert sum(1 + len(hit.copies) for hit in found) == count


def test_newest_similar_and_by_name(collection):
    with LanceIndex(collection) as index:
        newest = index.newest(2)
        assert [hit.taken[:4] for hit in newest] == ["2019", "2019"]
        number = index.id_of("copies/it's 100%.jpg")
        assert "red" in index.search(like=[(number, None)], top=2)[1].path
        assert index.id_of("elsewhere") is None


def test_the_command_searches_a_collection(collection, run):
    printed = run("search", "绿", "--top", 2, "--index", collection)
    assert printed.count("green") == 2


def test_a_model_of_a_different_space_or_dimension_is_refused(collection, color_model, tmp_path):
    other = save_color_model(tmp_path / "other", turn=1)
    for model in (other, Runtime(color_model, truncate_dim=8)):
        with pytest.raises(ValueError, match="different embedding space than the collection"):
            LanceIndex(collection, model)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        *product(("_versions/*", "_indices/*/*"), (cut, flip, Path.unlink)),
        *product(("data/*.lance",), (cut, Path.unlink)),
        ("checksums.txt", flip),
    ],
)
def test_damage_of_any_file_is_named_before_a_search(copied, pattern, damage):
    damage(max(copied.glob(pattern)))
    with pytest.raises(ValueError, match=r"index: .* is damaged \(.*training/embed\.py"):
        LanceIndex(copied)


@pytest.mark.parametrize("change", ["no checksums", "version"])
def test_a_data_set_of_someone_else_or_of_another_version_is_refused(copied, monkeypatch, change):
    if change == "version":
        monkeypatch.setattr(lance_module, "VERSION", 99)
    else:
        (copied / "checksums.txt").unlink()
    with pytest.raises(ValueError, match="did not write"):
        LanceIndex(copied)

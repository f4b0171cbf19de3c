"""Damaged models, indexes and photographs under the `dcclip` command."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from modeling_dcclip.search import command
from tests.campaign.damage import NAMED, cases, put, refused, run
from tests.color_model import save_color_model
from tests.search.conftest import RGB

FORMATS = ("jpg", "png", "webp", "tiff", "avif")
MODEL = (
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "onnx/text_model.onnx",
    "onnx/vision_model.onnx",
)
INDEX = ("settings.json", "settings.backup.json", "catalog-1.sqlite")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A model, photographs of five colors, and their index."""
    place = tmp_path_factory.mktemp("original")
    save_color_model(place / "model")
    (place / "photos").mkdir()
    for number in range(40):
        color = list(RGB)[number % len(RGB)]
        Image.new("RGB", (24 + number, 16), RGB[color]).save(
            place / "photos" / f"{color}{number}.png"
        )
    code, _, errors = run(
        command.main,
        "index",
        place / "photos",
        "--model",
        place / "model",
        "--index",
        place / "index",
    )
    assert not code, errors
    return place


@pytest.fixture
def place(original, tmp_path) -> Path:
    """Copies of the model and the index, to damage."""
    shutil.copytree(original / "index", tmp_path / "index")
    shutil.copytree(original / "model", tmp_path / "model")
    return tmp_path


def search(place: Path) -> tuple[int, str, str]:
    model = ("--model", place / "model")
    return run(
        command.main, "search", "red", "--top", "40", "--json", *model, "--index", place / "index"
    )


def assert_noticed(place: Path, undamaged: str):
    """A search is refused, tells of the damage, or answers as before."""
    code, found, errors = search(place)
    if code:
        assert code == 2 and refused("dcclip", errors), errors
    elif found != undamaged:
        assert "dcclip: note: " in errors, "a silent wrong answer"


@pytest.mark.parametrize(("file", "damage"), cases(MODEL, flips=8))
def test_a_damaged_model_is_noticed(file, damage, original, place):
    undamaged = search(place)[1]
    put(place / "model" / file, damage)
    assert_noticed(place, undamaged)
    Image.new("RGB", (99, 16), RGB["red"]).save(place / "new.png")
    shutil.copytree(original / "photos", place / "photos")
    model = ("--model", place / "model")
    code, _, errors = run(
        command.main, "index", place / "photos", *model, "--index", place / "index"
    )
    assert not code or refused("dcclip", errors), errors  # foreign vectors are never added
    shutil.rmtree(place / "model")
    shutil.copytree(original / "model", place / "model")
    scores = {hit["path"]: hit["score"] for hit in json.loads(search(place)[1])}
    assert all(
        scores[path] == score
        for path, score in ((hit["path"], hit["score"]) for hit in json.loads(undamaged))
    )


@pytest.mark.parametrize(("file", "damage"), cases(INDEX, 40, NAMED))
def test_a_damaged_index_is_noticed_and_repaired(file, damage, original, place):
    undamaged = search(place)[1]
    put(place / "index" / file, damage)
    assert_noticed(place, undamaged)
    for name in ("status", "duplicates"):
        code, _, errors = run(command.main, name, "--json", "--index", place / "index")
        assert not code or refused("dcclip", errors), errors
    code, _, errors = run(
        command.main, "index", "--model", place / "model", "--index", place / "index"
    )
    if code:
        assert refused("dcclip", errors), errors
    else:
        assert sorted(hit["score"] for hit in json.loads(search(place)[1])) == sorted(
            hit["score"] for hit in json.loads(undamaged)
        )


@pytest.mark.parametrize(
    ("file", "damage"), cases([f"photo.{name}" for name in FORMATS], 20, NAMED)
)
def test_a_damaged_photograph_is_counted_or_read(file, damage, place, tmp_path):
    photo = tmp_path / "more" / file
    photo.parent.mkdir()
    Image.effect_noise((64, 48), 80).convert("RGB").save(photo)
    put(photo, damage)
    model = ("--model", place / "model", "--index", place / "index")
    code, found, errors = run(command.main, "index", photo.parent, *model, "--json")
    if code:
        assert refused("dcclip", errors), errors
    else:
        report = json.loads(found)
        assert (
            report["embedded"] + len(report["failures"]) + report["copies"] == 1 or damage in NAMED
        ), report
    code, found, errors = run(command.main, "search", "--image", photo, *model)
    assert not code or refused("dcclip", errors), errors
    code, found, errors = run(command.main, "label", photo, "red", "blue", *model[:2])
    assert not code or refused("dcclip", errors), errors

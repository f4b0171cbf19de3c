"""Crops of photographs that a classifier is sure of: which ones, how many of a class, and their names."""

import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from tests.color_classifier import COLORS, ColorClassifier
from training.demo import named_crops
from training.demo.named_crops import Crop, CropOptions
from training.teachers.classifier import Classifier

NAMES = {"en": list(COLORS), "zh": ["红", "绿", "蓝"]}


class Colors(ColorClassifier):
    """A classifier that is sure of a part that has one color alone."""

    def probabilities(self, images):
        shares = images.float().mean((2, 3)) / 255
        return torch.where(shares > 0.98, shares, shares / 2)


def flag(*colors, size=(48, 24)):
    """A photograph with a vertical stripe of each color."""
    image, width = Image.new("RGB", size), size[0] // len(colors)
    for number, color in enumerate(colors):
        image.paste(Image.new("RGB", (width, size[1]), color), (number * width, 0))
    return image


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(Classifier, "from_pretrained", lambda *_: Colors())
    monkeypatch.setattr("training.demo.photo_teacher.photographs.object_names", lambda: NAMES)
    path = tmp_path / "photographs.parquet"
    photographs = [flag("red", "blue"), flag("lime"), flag("gray"), flag("blue", size=(20, 30))]
    Dataset.from_dict({"image": photographs, "title": ["a", "b", "c", "d"]}).to_parquet(path)
    return path


def run(source, folder, *arguments):
    named_crops.main(["--images", str(source), "--classifier", "colors", "--output_dir", str(folder), *arguments])
    paths = [folder / name for name in named_crops.WRITTEN if (folder / name).exists()]
    return [Dataset.from_parquet(str(path), cache_dir=str(folder / "cache")) for path in paths]


def test_sure_crops_get_the_names_of_their_class(source, tmp_path, capsys):
    [crops] = run(source, tmp_path / "crops", "--num_crops", "30")
    assert capsys.readouterr().out == "4 crops, 3 classes\n"
    assert [row["en"][0] for row in crops] == ["red", "blue", "lime", "blue"]  # one of each class in a photograph
    assert crops[0]["en"][1] == "a photo of a red." and crops[0]["zh"][:2] == ["红", "一张红的照片"]
    red, blue, whole, _ = crops["image"]
    assert red.size[0] <= 24 and blue.size[0] <= 24 and whole.size == (48, 24)
    assert red.getpixel((red.width // 2, red.height // 2))[0] > 250


def test_the_same_seed_finds_the_same_crops(source, tmp_path):
    first, second, other = (
        run(source, tmp_path / name, "--num_crops", "30", "--seed", seed)[0]
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    assert first["image"] == second["image"] and first["image"] != other["image"]


def test_photographs_that_are_left_out_have_no_crops(source, tmp_path):
    crops, validation = run(source, tmp_path / "crops", "--held_out", "0.5", "--num_crops", "30")
    assert len(validation) == 2 and validation.column_names == ["image"]
    assert [image.size for image in validation["image"]] == [(48, 24), (20, 30)]  # the first and the last
    assert [row["en"][0] for row in crops] == ["lime"]
    [_] = run(source, tmp_path / "crops", "--num_crops", "30", "--overwrite")  # all photographs have crops now


def test_boxes_are_inside_the_photograph():
    boxes = named_crops.boxes((60, 7), 200, number=3, seed=0)
    assert boxes[0] == (0, 0, 60, 7) and len(boxes) == 201
    assert all(0 <= left < right <= 60 and 0 <= top < bottom <= 7 for left, top, right, bottom in boxes)
    areas = [(right - left) * (bottom - top) / 420 for left, top, right, bottom in boxes[1:]]
    assert 0.02 < min(areas) < 0.2 and max(areas) < 0.7
    assert boxes[1:] != named_crops.boxes((60, 7), 200, number=4, seed=0)[1:]


def test_a_class_keeps_a_draw_of_its_crops():
    crops = [Crop(row, (0, 0, 1, 1), 5, 0.9) for row in range(50)] + [Crop(7, (0, 0, 1, 1), 6, 0.9)]
    options = CropOptions(images="a", classifier="b", output_dir="c", max_per_class=10)
    drawn = named_crops.draw_per_class(crops, options)
    rows = [crop.row for crop in drawn if crop.label == 5]
    assert len(rows) == 10 and rows == sorted(rows) and rows != list(range(10))
    assert [crop.label for crop in drawn].count(6) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min_probability", "1"], "min_probability: the classifier is as sure as 1.0 of no crop of 4 photographs"),
        (["--min_probability", "0"], "min_probability: is 0.0, expected above 0 and at most 1"),
        (["--held_out", "1"], "held_out: is 1.0, expected at least 0 and below 1"),
        (["--num_crops", "-1"], "num_crops: is -1, expected at least 0"),
        (["--seed", "-1"], "seed: is -1, expected at least 0"),
        (["--max_per_class", "0"], "max_per_class: is 0, expected at least 1"),
    ],
)
def test_bad_numbers_are_refused(source, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(Colors, "probabilities", lambda self, images: torch.full((len(images), 3), 0.3))
    with pytest.raises(SystemExit):
        run(source, tmp_path / "crops", *arguments)
    assert message in capsys.readouterr().err and not (tmp_path / "crops" / "crops.parquet").exists()


def test_a_damaged_photograph_is_named(source, tmp_path, capsys):
    rows = Dataset.from_dict({"image": [{"bytes": b"no image", "path": None}]})
    rows.to_parquet(tmp_path / "damaged.parquet")
    with pytest.raises(SystemExit):
        run(tmp_path / "damaged.parquet", tmp_path / "crops")
    assert "images: " in capsys.readouterr().err


def test_the_row_of_a_photograph_is_that_of_the_file(tmp_path, capsys, source):
    cells = [Dataset.from_parquet(str(source)).cast_column("image", ImageFeature(decode=False))[0]["image"], None]
    Dataset.from_list([{"image": cell} for cell in (cells[0], cells[0], *cells, cells[0])]).to_parquet(source)
    with pytest.raises(SystemExit):
        run(source, tmp_path / "crops", "--held_out", "0.2")  # without the first one
    assert "images: row 3 has no image" in capsys.readouterr().err


def test_the_source_is_not_overwritten(source, tmp_path, capsys):
    photographs = source.rename(tmp_path / "validation.parquet")
    before = photographs.read_bytes()
    with pytest.raises(SystemExit):
        run(photographs, tmp_path, "--overwrite")
    assert "would overwrite images" in capsys.readouterr().err and photographs.read_bytes() == before


def test_another_number_of_classes_is_refused(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Colors, "num_classes", 4)
    with pytest.raises(SystemExit):
        run(source, tmp_path / "crops")
    assert "classifier: 'colors' has 4 classes, expected 3" in capsys.readouterr().err

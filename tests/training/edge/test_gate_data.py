"""Data of the accuracy gate without options: what the folder of a model tells, and nothing else."""

import json
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, List, Value

from training.edge.formats import ExportOptions
from training.edge.gate_data import (
    SPLITS_FOLDER,
    TRAINING_FILE,
    VALIDATION_FILE,
    GateData,
    make_noise,
)


def from_options(folder: Path, **fields) -> GateData:
    return GateData.from_options(ExportOptions(folder=str(folder), output_dir="out", **fields))


def make_split(path: Path, **captions: list[list[str]]):
    count = len(next(iter(captions.values())))
    features = Features(
        {"image": Image(), **{language: List(Value("string")) for language in captions}}
    )
    images = make_noise()["image"][:count]
    Dataset.from_dict({"image": images, **captions}, features=features).to_parquet(path)


def test_captions_of_a_validation_split_become_classes_in_their_languages(tmp_path):
    splits = tmp_path / SPLITS_FOLDER
    splits.mkdir()
    chinese = [["猫", "小猫"], ["狗"], [], ["猫"]]
    english = [["a cat"], ["a dog"], ["a fox"], ["a cat"]]
    make_split(splits / VALIDATION_FILE, zh=chinese, en=english)
    make_split(splits / TRAINING_FILE, zh=[["鸟"]])
    data = from_options(tmp_path)
    assert data.class_names.names == {"en": ["a cat", "a dog"], "zh": ["猫", "狗"]}
    assert data.labels.tolist() == [0, 1, 0] and len(data.images) == 3
    assert len(data.calibration) == 1
    make_split(splits / VALIDATION_FILE, zh=[["猫"], ["狗"]])
    assert from_options(tmp_path).languages == ["zh"]


def test_images_with_several_labels_are_refused(tmp_path):
    columns = {"image": make_noise()["image"][:2], "label": [["dog", "person"], ["cat"]]}
    path = tmp_path / "voc.parquet"
    Dataset.from_dict(columns).cast_column("image", Image()).to_parquet(path)
    with pytest.raises(ValueError, match=r"data: images of .*voc\.parquet' have several labels"):
        from_options(tmp_path, data=str(path), class_names="voc-2007-classification")


def test_other_images_can_set_the_int8_ranges(corpus, tmp_path):
    labeled = {
        "data": str(corpus / "unseen_style.parquet"),
        "class_names": str(corpus / "class_names.json"),
    }
    data = from_options(tmp_path, **labeled)
    assert len(data.calibration) == len(data.images) == len(data.labels)
    images = {"photo": make_noise()["image"]}
    photos = Dataset.from_dict(images, Features({"photo": Image()}))
    photos.to_parquet(tmp_path / "a.parquet")
    calibration = str(tmp_path / "a.parquet")
    data = from_options(tmp_path, calibration=calibration, image_column="photo")
    assert data.labels is None and len(data.calibration) == len(photos)
    with pytest.raises(ValueError, match=r"calibration: .*no column 'image'"):
        from_options(tmp_path, **labeled, calibration=calibration)


def write_recipe(folder: Path, data: str, train: str, class_names: str):
    recipe = {"eval": {"data": data, "class_names": class_names}, "data": {"train": train}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))


def test_the_validation_set_of_the_recipe_checks_a_model(corpus, tmp_path):
    held_out = str(corpus / "unseen_style.parquet")
    names = str(corpus / "class_names.json")
    write_recipe(tmp_path, held_out, str(corpus / TRAINING_FILE), names)
    found = from_options(tmp_path)
    assert len(found.images) == len(found.labels) == len(Dataset.from_parquet(held_out))
    assert found.languages == ["en", "zh"] and found.source == held_out
    assert len(found.calibration) == len(Dataset.from_parquet(str(corpus / TRAINING_FILE)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("no_such_folder/a.parquet", None),
        ("some/dataset", None),
        ("someones.module:load", "names a function, which would run"),
    ],
)
def test_a_validation_set_that_is_not_here_or_not_trusted_is_not_used(
    corpus, tmp_path, caplog, data, message
):
    write_recipe(tmp_path, data, "train.parquet", str(corpus / "class_names.json"))
    assert from_options(tmp_path).labels is None
    assert (message in caplog.text) if message else not caplog.text

"""Data of the accuracy gate without options: what the folder of a model tells, and nothing else."""

from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, List, Value

from training.corpus.emoji import DEFAULT_CACHE
from training.data import load_source
from training.edge.formats import ExportOptions
from training.edge.gate_data import (
    SPLITS_FOLDER,
    TRAINING_FILE,
    VALIDATION_FILE,
    GateData,
    is_of_emoji,
    make_noise,
)


@pytest.mark.parametrize(
    ("data", "is_emoji"),
    [
        ({"train": "training.corpus.emoji:load_train"}, True),
        ({"train": str(DEFAULT_CACHE / "emoji-96" / "train.parquet")}, True),
        ({"train": "photos.parquet"}, False),
        (
            {
                "sources": [
                    {"train": "training.corpus.emoji:load_train"},
                    {"train": "photos.parquet"},
                ]
            },
            False,
        ),
        ({"sources": [{"train": "training.corpus.emoji:load_train"}]}, True),
        ({}, False),
        (None, False),
    ],
)
def test_a_model_of_emoji_is_one_that_was_trained_on_nothing_else(data, is_emoji):
    assert is_of_emoji({"data": data}) == is_emoji


def from_options(folder: Path, **fields) -> GateData:
    return GateData.from_options(ExportOptions(folder=str(folder), output_dir="out", **fields))


def make_split(path: Path, **captions: list[list[str]]):
    count = len(next(iter(captions.values())))
    features = Features(
        {"image": Image(), **{language: List(Value("string")) for language in captions}}
    )
    images = [make_noise()[number]["image"] for number in range(count)]
    Dataset.from_dict({"image": images, **captions}, features=features).to_parquet(path)


def test_captions_of_a_validation_split_become_classes_in_their_languages(tmp_path):
    splits = tmp_path / SPLITS_FOLDER
    splits.mkdir()
    chinese = [["猫", "小猫"], ["狗"], [], ["猫"]]
    make_split(
        splits / VALIDATION_FILE, zh=chinese, en=[["a cat"], ["a dog"], ["a fox"], ["a cat"]]
    )
    make_split(splits / TRAINING_FILE, zh=[["鸟"]])
    data = from_options(tmp_path)
    assert data.languages == ["en", "zh"] and data.label_ids("validation").tolist() == [0, 1, 0]
    assert data.class_names.in_language("zh") == ["猫", "狗"]
    assert data.class_names.in_language("en") == ["a cat", "a dog"]
    assert len(data.calibration) == 1
    make_split(splits / VALIDATION_FILE, zh=[["猫"], ["狗"]])
    assert from_options(tmp_path).languages == ["zh"]


def test_other_images_can_set_the_int8_ranges(corpus, tmp_path):
    fields = {
        "data": str(corpus / "unseen_style.parquet"),
        "class_names": str(corpus / "class_names.json"),
    }
    labelled = from_options(tmp_path, **fields)
    other = from_options(tmp_path, **fields, calibration=str(corpus / "train.parquet"))
    assert len(labelled.calibration) == len(labelled.sets["unseen_style"]) != len(other.calibration)
    assert len(other.calibration) == len(load_source(str(corpus / "train.parquet")))
    photos = (
        load_source(str(corpus / "train.parquet"))
        .select(range(3))
        .rename_columns({"image": "photo"})
    )
    photos.to_parquet(tmp_path / "a.parquet")
    (tmp_path / SPLITS_FOLDER).mkdir()
    make_split(tmp_path / SPLITS_FOLDER / VALIDATION_FILE, zh=[["猫"], ["狗"]])
    split = from_options(tmp_path, calibration=str(tmp_path / "a.parquet"), image_column="photo")
    assert split.calibration.column_names == [split.image_column]
    with pytest.raises(ValueError, match=r"calibration: .*--image_column"):
        from_options(tmp_path, **fields, calibration=str(tmp_path / "a.parquet"))

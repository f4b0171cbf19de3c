"""Data of the accuracy gate without options: what the folder of a model tells, and nothing else."""

import json
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, Features, Image, List, Value

from training.corpus.emoji import DEFAULT_CACHE
from training.edge.formats import ExportOptions
from training.edge.gate_data import (
    SPLITS_FOLDER,
    TRAINING_FILE,
    VALIDATION_FILE,
    GateData,
    find_model_data,
    make_noise,
)
from training.edge.output import holds_only_exports
from training.finetuning import prepare


def write_recipe(folder: Path, **fields) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("data", "is_emoji"),
    [
        ({"train": "training.corpus.emoji:load_train"}, True),
        ({"train": str(DEFAULT_CACHE / "emoji-96" / "train.parquet")}, True),
        ({"train": "photos.parquet"}, False),
        ({"sources": [{"train": "training.corpus.emoji:load_train"}, {"train": "photos.parquet"}]}, False),
        ({"sources": [{"train": "training.corpus.emoji:load_train"}]}, True),
        ({}, False),
        (None, False),
    ],
)
def test_a_model_of_emoji_is_one_that_was_trained_on_nothing_else(tmp_path, data, is_emoji):
    assert find_model_data(write_recipe(tmp_path, data=data)).is_emoji == is_emoji


@pytest.mark.parametrize("content", [None, "", "- a", "a: [", "\x00"])
def test_a_missing_or_damaged_recipe_tells_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "recipe.yaml").write_text(content, encoding="utf-8")
    found = find_model_data(tmp_path)
    assert (found.is_emoji, found.validation, found.eval) == (False, None, None)


def test_the_shipped_model_of_photographs_is_no_model_of_emoji():
    folder = Path(__file__).parents[3] / "model_cards" / "dcclip-tiny-photo"
    assert not find_model_data(folder).is_emoji


def test_a_validation_set_of_the_recipe_counts_only_if_it_is_here(tmp_path):
    names = tmp_path / "names.json"
    names.write_text(json.dumps([{"en": "cat", "zh": "猫"}, {"en": "dog", "zh": "狗"}]), encoding="utf-8")
    test = tmp_path / "test.parquet"
    config = {"data": str(test), "class_names": str(names), "label_column": "name"}
    write_recipe(tmp_path, data={"train": "photos.parquet"}, eval=config)
    assert find_model_data(tmp_path).eval is None
    rows = Dataset.from_dict({"image": [make_noise()[0]["image"]] * 2, "name": ["cat", "dog"]})
    rows.to_parquet(test)
    data = GateData.from_options(ExportOptions(folder=str(tmp_path), output_dir="out"))
    assert data.languages == ["en", "zh"] and data.label_ids("test").tolist() == [0, 1] and data.is_checked


def test_the_splits_of_fine_tuning_are_found_under_its_names():
    assert prepare.DATA_FOLDER == SPLITS_FOLDER
    assert (prepare.TRAIN_FILE, prepare.VALIDATION_FILE) == (TRAINING_FILE, VALIDATION_FILE)


def make_split(path: Path, **captions: list[list[str]]):
    count = len(next(iter(captions.values())))
    features = Features({"image": Image(), **{language: List(Value("string")) for language in captions}})
    images = [make_noise()[number]["image"] for number in range(count)]
    Dataset.from_dict({"image": images, **captions}, features=features).to_parquet(path)


def test_captions_of_a_validation_split_become_classes_in_their_languages(tmp_path):
    splits = tmp_path / SPLITS_FOLDER
    splits.mkdir()
    chinese = [["猫", "小猫"], ["狗"], [], ["猫"]]
    make_split(splits / VALIDATION_FILE, zh=chinese, en=[["a cat"], ["a dog"], ["a fox"], ["a cat"]])
    make_split(splits / TRAINING_FILE, zh=[["鸟"]])
    data = GateData.from_options(ExportOptions(folder=str(tmp_path), output_dir="out"))
    assert data.languages == ["en", "zh"] and data.label_ids("validation").tolist() == [0, 1, 0]
    assert data.class_names.in_language("zh") == ["猫", "狗"]
    assert data.class_names.in_language("en") == ["a cat", "a dog"]
    assert len(data.calibration) == 1
    make_split(splits / VALIDATION_FILE, zh=[["猫"], ["狗"]])
    assert GateData.from_options(ExportOptions(folder=str(tmp_path), output_dir="out")).languages == ["zh"]


@pytest.mark.parametrize(
    "meta", [{"export": []}, {"export": {"verdicts": [{}]}}, {"export": {"runs": 3}}, {"layouts": {"immich": {}}}]
)
def test_a_damaged_record_of_exports_is_reported(tmp_path, meta):
    (tmp_path / "results.json").write_text(json.dumps({"meta": meta, "rows": []}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"results\.json: "):
        holds_only_exports(tmp_path, "onnx")

"""Photographs whose captions are names."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from training.experiments.photographs import words


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("Two dogs and a puppy", {"dog", "puppy"}),
        ("Women on polar bears", {"woman", "polar bear"}),
        ("People with knives", {"people", "person", "knife"}),
        ("Oxen, geese, calves and mice eat loaves", {"ox", "goose", "calf", "mouse", "loaf"}),
        ("Wolves with teeth and feet", {"wolf", "tooth", "foot"}),
        ("Men and children beside shelves of leaves", {"man", "child", "shelf", "leaf"}),
        ("a red bus", {"bus"}),  # red is a name in WordNet, but here a color
    ],
)
def test_english_nouns_are_the_longest_names_in_the_singular(caption, nouns):
    assert words._english_nouns(caption) == nouns


def test_captions_become_their_nouns_as_often_as_they_have_them(tmp_path, monkeypatch):
    monkeypatch.setattr(words, "MIN_PHOTOS", 2)
    table = {
        "image": [b"1", b"2", b"3"],
        "en": [["A dog runs", "a dog", "a giraffe"], ["a dog and a cat"], ["it waits"]],
        "zh": ["草地上的孩子", "两个孩子", None],
    }
    sources = [tmp_path / "captions.parquet", tmp_path / "english.parquet"]
    pq.write_table(pa.table(table), sources[0])
    pq.write_table(pa.table({"image": [b"4"], "en": ["two dogs"]}), sources[1])
    words.write_nouns(sources, tmp_path / "nouns.parquet")
    assert pq.read_table(tmp_path / "nouns.parquet").to_pylist() == [
        {"image": b"1", "en": ["dog", "dog"], "zh": ["孩子"]},
        {"image": b"2", "en": ["dog"], "zh": ["孩子"]},
        {"image": b"4", "en": ["dog"], "zh": []},
    ]


@pytest.mark.parametrize(
    "as_bytes", [False, True]
)  # the column of an image feature, and of files alone
def test_photographs_get_their_probable_classes_best_first(tmp_path, monkeypatch, as_bytes):
    class Sees(torch.nn.Module):
        def forward(self, pixels):
            return torch.tensor([[0.0, 5.0, 5.5], [1.0, 1.1, 1.0]])  # sure of two; of none

    monkeypatch.setattr(words.LITE2.__class__, "weights", lambda self: {})
    monkeypatch.setattr(words.timm, "create_model", lambda name: Sees())
    monkeypatch.setattr(words, "MIN_PROBABILITY", 0.36)
    names = {"en": ["cat", "cup", "mug"], "zh": ["猫", "杯子", "马克杯"]}
    metadata = {"names": json.dumps(names)}
    tensors = {"weight": torch.zeros(3, 1), "bias": torch.zeros(3)}
    save_file(tensors, tmp_path / "classifier", metadata)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, "PNG")
    image = buffer.getvalue() if as_bytes else {"bytes": buffer.getvalue(), "path": None}
    pq.write_table(pa.table({"image": [image, image]}), tmp_path / "photos.parquet")
    paths = [tmp_path / "photos.parquet"], tmp_path / "classifier", tmp_path / "classes.parquet"
    words.write_classes(*paths)
    rows = pq.read_table(tmp_path / "classes.parquet").to_pylist()
    assert [(row["en"], row["zh"]) for row in rows] == [(["mug", "cup"], ["马克杯", "杯子"])]


def test_a_traditional_piece_finds_its_simplified_one():
    pieces = {"猫": 0, "貓": 1, "漂亮": 2, "海邊": 3, "cat": 4}
    assert words.simplified_pieces(pieces) == {1: 0}  # the vocabulary has no 海边

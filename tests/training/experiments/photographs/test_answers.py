"""The answers that are counted, by a model of colors in photographs of one color each."""

import io
import json
import shutil

import pytest
from datasets import Dataset
from PIL import Image

from modeling_dcclip.search.index import index as index_module
from tests.training.experiments.photographs.test_search import make_set
from training.experiments.photographs import answers

PHOTOS = {"red": (255, 0, 0), "green": (0, 255, 0), "gold": (255, 255, 0), "white": (255,) * 3}
QUERIES = {
    "shown": {name: name for name in (*PHOTOS, "blue")},
    "nouns": [
        ["red", "红", ["red"]],  # one photograph
        ["red green", "红 绿", ["green"]],  # perhaps
        ["blue", "蓝", ["blue"]],  # not there
    ],
    "absent": [
        ["yellow", "黄"],  # found, because no caption has this word
        ["blue", "蓝"],
        ["white", "白"],  # in a caption
    ],
    "dated": [
        ["red in 2016", "2016年的红", ["red"]],
        ["red green in 2017", "2017年的红 绿", ["green"]],
        ["blue in 2017", "2017年的蓝", ["green"]],
        ["red in 2018", "2018年的红", ["red"]],  # not there
    ],
}
EXPECTED = {
    ("nouns", "answer_lost"): 1 / 2,
    ("nouns", "answer_unsure"): 1 / 2,
    ("absent", "answer_found"): 1 / 2,
    ("dated", "answer_lost"): 1 / 3,
    ("dated", "answer_unsure"): 1 / 3,
}


def image(color: tuple[int, ...]) -> dict[str, bytes]:
    content = io.BytesIO()
    Image.new("RGB", (24, 16), color).save(content, "PNG")
    return {"bytes": content.getvalue()}


def test_answers_are_counted_for_what_is_known(color_model, tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "NOUNS", ["red", "green", "blue", "white"])
    monkeypatch.setattr(answers, "MIN_PHOTOS", 1)
    monkeypatch.setattr(answers.everyday, "EVERYDAY", QUERIES)
    model = shutil.copytree(color_model, tmp_path / "calibrated")
    config = json.loads((model / "config.json").read_text()) | {"fit": [4, -1, -4, 0, 0, 3]}
    (model / "config.json").write_text(json.dumps(config))
    photos = make_set(*((name,) for name in PHOTOS))
    photos.rows = Dataset.from_list([{"image": image(color)} for color in PHOTOS.values()])
    rows = answers.measure_answers(model, [photos], "colors")
    found = {(row.set, row.metric, row.language): row.value for row in rows}
    expected = {(*key, each): value for key, value in EXPECTED.items() for each in ("en", "zh")}
    assert found == pytest.approx(expected)

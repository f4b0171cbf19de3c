"""Class names as captions, and the sentences and nouns that are drawn."""

import json

import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from PIL import Image

from training.demo.photo_data import (
    MORE_PROMPTS,
    PROMPTS,
    WRITTEN,
    captions,
    draw,
    english_words,
    in_prompts,
    main,
)

NOUNS = (
    "# Chinese Open Wordnet\n02131777-n\tcmn:lemma\t猫\n13742358-n\tcmn:lemma\t导+水管\n02667576-a\tcmn:lemma\t红\n"
)


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    images = [Image.new("RGB", (8, 8), (number, 0, 0)) for number in range(3)]
    save(folder, "photos_places_train", image=images, en=["abbey", "aquarium", "abbey"])
    save(
        folder,
        "photos_tiny_imagenet_train",
        image=images,
        en=["goldfish", "bison", "bison"],
        zh=["金鱼", "野牛", "野牛"],
    )
    save(folder, "sentences_tatoeba_en_zh", en=["I see.", "Run!", "Stop!"], zh=["我明白了。", "跑！", "停！"])
    names = {"n1": {"en": "tench", "zh": "丁鲷"}, "n2": {"en": "goldfish", "zh": "金鱼"}}
    (folder / "imagenet_class_names_en_zh.json").write_text(json.dumps(names), encoding="utf-8")
    (folder / "wordnet_zh_cow.tab").write_text(NOUNS, encoding="utf-8")
    return folder


def save(folder, name, **columns):
    Dataset.from_dict(columns).to_parquet(folder / f"{name}.parquet")


def run(sources, *arguments):
    output = sources.parent / "texts"
    main(["--data_dir", str(sources), "--output_dir", str(output), *arguments])
    return {name: pq.read_table(output / name).to_pylist() for name in WRITTEN}


def test_class_names_become_captions_in_both_languages(sources):
    tables = run(sources)
    assert [row["zh"][:2] for row in tables["places.parquet"]] == [
        ["修道院", "一张修道院的照片"], ["水族馆", "一张水族馆的照片"], ["修道院", "一张修道院的照片"],
    ]  # fmt: skip
    assert tables["tiny_imagenet.parquet"][1]["en"][:2] == ["bison", "a photo of a bison."]
    assert len(tables["tiny_imagenet.parquet"][1]["en"]) < len(PROMPTS["en"]) == len(tables["names.parquet"][0]["en"])
    source = pq.read_table(sources / "photos_places_train.parquet").to_pylist()
    assert [row["image"] for row in tables["places.parquet"]] == [row["image"] for row in source]


def test_names_are_those_of_all_three_sets(sources):
    names = [row["en"][0] for row in run(sources)["names.parquet"]]
    assert names[:3] == ["tench", "goldfish", "abbey"] and names[-2:] == ["goldfish", "bison"]


def test_sentences_are_drawn_in_pairs(sources):
    rows = run(sources, "--num_sentences", "2")["tatoeba.parquet"]
    pairs = {("I see.", "我明白了。"), ("Run!", "跑！"), ("Stop!", "停！")}
    assert len(rows) == 2 and {(row["en"], row["zh"]) for row in rows} < pairs


def test_names_for_validation_are_in_no_file_of_words(sources):
    (sources / "wordnet_zh_cow.tab").write_text(NOUNS + "02121620-n\tcmn:lemma\t猫\n02084071-n\tcmn:lemma\t狗\n")
    tables = run(sources, "--num_held_out", "1", "--num_words", "3000")
    validation = tables["objects_validation.parquet"]
    assert validation in ([{"en": "cat", "zh": "猫"}], [{"en": "dog", "zh": "狗"}])
    words = {cell[0] for name in WRITTEN[4:8] for row in tables[name] for cell in row.values()}
    assert {"animal", "food", *({"cat", "dog"} - {validation[0]["en"]})} <= words
    assert words.isdisjoint(validation[0].values())


def test_words_stand_alone_and_in_prompts(sources):
    words = run(sources, "--num_words", "3000")["words.parquet"]
    cells = {row["en"][0]: row["en"] for row in words}
    assert len(words) > 2000 and "butterfly" in {*cells} | {*english_words(30_000)} and "the" in cells
    assert all(len(set(cell)) == 3 and all(word in text for text in cell) for word, cell in cells.items())


def test_prompts_of_words_are_drawn_by_seed():
    words = [f"word{number}" for number in range(200)]
    cells = in_prompts(words, "en", 0)
    assert cells == in_prompts(words, "en", 0) != in_prompts(words, "en", 1)
    used = {text.replace(cell[0], "{}") for cell in cells for text in cell}
    assert len(used) == 1 + len(PROMPTS["en"]) - 1 + len(MORE_PROMPTS["en"])


def test_prompts_are_cut():
    assert captions([{"en": "cat", "zh": "猫"}], 1) == {"en": [["cat"]], "zh": [["猫"]]}


def test_a_draw_is_ordered_and_never_larger_than_its_rows():
    assert draw(3, 5, 0) == [0, 1, 2]
    rows = draw(100, 10, 0)
    assert rows == sorted(set(rows)) and len(rows) == 10 and rows != draw(100, 10, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wordnet_zh_cow.tab", "nothing\n", "wordnet_zh_cow.tab has no lines"),
        ("imagenet_class_names_en_zh.json", '{"n1": {"en": "tench"}}', "cannot read imagenet_class_names_en_zh.json"),
        ("photos_places_train.parquet", "", "photos_places_train.parquet"),
    ],
)
def test_a_damaged_source_is_named(sources, capsys, name, content, message):
    (sources / name).write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        run(sources)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_scene_of_another_set_is_named(sources, capsys):
    save(sources, "photos_places_train", image=[Image.new("RGB", (8, 8))], en=["my kitchen"])
    with pytest.raises(SystemExit):
        run(sources)
    assert "'my kitchen' in photos_places_train.parquet is no scene of MiniPlaces" in capsys.readouterr().err

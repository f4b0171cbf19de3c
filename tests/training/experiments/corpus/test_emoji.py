from io import BytesIO

import pytest
from PIL import Image

from training.data import load_source
from training.evaluation.sets.class_names import ClassNames
from training.experiments.corpus import emoji
from training.experiments.corpus.emoji import (
    SPLITS,
    build_corpus,
    load_held_out,
    load_train,
    read_concepts,
    render,
)


@pytest.fixture(scope="module")
def concepts():
    return read_concepts()


def test_concepts_have_the_documented_number_and_unique_names(concepts):
    assert (len(concepts), sum(concept.is_held_out for concept in concepts)) == (3944, 591)
    for language in ("en", "zh"):
        assert len({getattr(concept, language).strip() for concept in concepts}) == 3944


@pytest.fixture(scope="module")
def splits(corpus):
    return {split: load_source(str(corpus / f"{split}.parquet")) for split in SPLITS}


def test_no_name_or_image_of_an_unseen_combination_is_in_train(splits):
    train, unseen = splits["train"], splits["unseen_combination"]
    assert len(unseen) > 5
    for column in ("en", "zh", "group"):
        assert set(unseen[column]).isdisjoint(train[column])
    train_images = {image.tobytes() for image in train["image"]}
    assert not [row["en"] for row in unseen if row["image"].tobytes() in train_images]


def test_the_openmoji_image_of_an_unseen_style_is_in_train(splits):
    unseen = splits["unseen_style"]
    assert len(unseen) > 3 and set(unseen["style"]) == {"twemoji"}
    trained = {(row["group"], row["style"]) for row in splits["train"].remove_columns("image")}
    for group in unseen["group"]:
        assert (group, "openmoji") in trained and (group, "twemoji") not in trained


@pytest.mark.parametrize(("width", "height"), [(40, 40), (40, 20), (20, 40)])
def test_a_drawing_is_centered_on_a_white_square(width, height):
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    svg += f'<rect width="{width}" height="{height}" fill="#f00"/></svg>'
    with Image.open(BytesIO(render(svg, 80))) as image:
        assert image.size == (80, 80)
        red = Image.eval(image.convert("RGB").getchannel("G"), lambda value: 255 - value)
        box = red.getbbox()
    assert box == (40 - width, 40 - height, 40 + width, 40 + height)


def test_a_corpus_is_rendered_once_and_recipes_read_its_splits_and_names(tmp_path, monkeypatch):
    folder = build_corpus(tmp_path, every=300)
    monkeypatch.setattr(emoji, "DEFAULT_CACHE", tmp_path)
    monkeypatch.setattr(emoji, "read_concepts", None)  # it would render again
    assert build_corpus(tmp_path, every=300) == folder
    folder.rename(folder.with_name(folder.name.replace("-300-", "-1-")))
    assert load_train().column_names == load_source(str(tmp_path)).column_names
    names = "training.experiments.corpus.emoji:load_names"
    assert {*load_held_out()["label"]} < {*ClassNames.read(names).names["en"]}

import pytest

from training.corpus.emoji import SPLITS, STYLES, read_concepts
from training.data import load_source


@pytest.fixture(scope="module")
def concepts():
    return read_concepts()


def test_concepts_have_the_documented_number_and_unique_names(concepts):
    assert (len(concepts), sum(concept.is_held_out for concept in concepts)) == (3944, 591)
    for language in ("en", "zh"):
        assert len({getattr(concept, language).strip() for concept in concepts}) == 3944


def test_held_out_concepts_are_in_the_documented_split(concepts):
    for concept in concepts:
        splits = {style: concept.split(style) for style in STYLES}
        if not concept.is_held_out:
            assert set(splits.values()) == {"train"}
        elif concept.is_skin_tone_variant:
            assert set(splits.values()) == {"unseen_combination"}
        else:
            assert splits == {"openmoji": "train", "twemoji": "unseen_style"}


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

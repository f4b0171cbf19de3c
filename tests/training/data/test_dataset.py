import pytest
import torch

from tests.training.data.rows import BROKEN, make_plan, make_rows
from tests.training.data.shards import assert_equal_batches
from training.data import SkipError, make_loader, tokenize


def test_row_needs_a_caption_in_one_language_only(make_dataset, images):
    rows = make_rows(images[:3], en=["frog", "cat", ""], zh=["青蛙", "", "狗"])
    built = make_dataset(rows)
    assert built.rows[0].tolist() == [0, 1, 2]
    batch = built.collate([(row, 0, 0, built[row]) for row in range(3)])
    assert batch["owner"].tolist() == [0, 0, 1, 2]
    assert batch["language"].tolist() == [0, 1, 0, 1]


def test_a_missing_image_column_is_named(make_dataset):
    with pytest.raises(ValueError, match="no column 'photo'"):
        make_dataset(image_column="photo")


def test_too_many_skips_raise_an_error_with_cause_and_limit(make_dataset, images):
    rows = make_rows(images[:4], en=["frog", "", "", "cat"])
    with pytest.raises(SkipError, match=r"2 of 4 samples.*empty caption: 2.*max_skip_share=0.3"):
        make_dataset(rows, ("en",), max_skip_share=0.3)


def test_several_captions_of_a_row_are_used_in_turn(make_dataset, tokenizer, images):
    captions = ["a frog", "green frog", "frog face"]
    built = make_dataset(make_rows(images[:1], en=[captions]), ("en",))
    batch = built.collate([(0, epoch, epoch, built[0]) for epoch in range(6)])
    expected = tokenize(tokenizer, captions * 2, 32)
    assert torch.equal(batch["input_ids"], expected["input_ids"])


def test_fields_of_a_nested_column_are_captions(make_dataset, images):
    names = [{"en": "frog", "zh": "青蛙"}, {"en": "cat", "zh": "猫"}]
    rows = make_rows(images[:2], names=names)
    built = make_dataset(rows, caption_columns={"en": "names.en", "zh": "names.zh"})
    assert built.captions.read(1) == {"en": ["cat"], "zh": ["猫"]}


def test_images_kept_in_memory_are_equal(make_dataset):
    kept = make_dataset(in_memory=True)
    expected = make_dataset()[7]
    for _ in range(2):  # decoded, and then kept
        assert torch.equal(kept[7], expected)


def test_damaged_image_is_replaced_by_the_next_row_so_that_batches_stay_full(make_dataset, images):
    cells = [images[0], BROKEN, images[2], images[3]]
    rows = make_rows(cells, en=["frog", "cat", "dog", "fox"])
    loader = make_loader(
        make_dataset(rows, ("en",), max_skip_share=0.5), make_plan(batch_size=1, stop=4)
    )
    assert sorted(batch["rows"].item() for batch in loader) == [0, 2, 2, 3]
    assert loader.skipped.causes == {1: "image does not decode"}
    assert loader.state() == {"causes": [(1, "image does not decode")]}


def test_data_without_an_image_that_decodes_raises_an_error(make_dataset):
    built = make_dataset(make_rows([BROKEN, BROKEN], en=["frog", "cat"]), ("en",))
    with pytest.raises(ValueError, match="no image of 'tiny' decodes"):
        list(make_loader(built, make_plan(batch_size=1, stop=1)))


def test_worker_processes_make_the_same_batches(make_dataset):
    plan = make_plan(stop=3)
    alone = make_loader(make_dataset(workers=0), plan)
    shared = make_loader(make_dataset(workers=2), plan)
    assert_equal_batches(list(alone), list(shared))


def test_the_identity_of_data_depends_on_images_and_captions(make_dataset, images):
    rows = make_rows(images[:3], en=["frog", "cat", "owl"], zh=["青蛙", "猫", "鸮"])
    identity = make_dataset(rows).identity()
    assert identity.startswith("3 rows, ") and make_dataset(rows).identity() == identity
    others = [
        make_rows(images[1:4], en=["frog", "cat", "owl"], zh=["青蛙", "猫", "鸮"]),
        make_rows(images[:3], en=["frog", "cat", "dog"], zh=["青蛙", "猫", "鸮"]),
    ]
    assert len({identity, *(make_dataset(each).identity() for each in others)}) == 3
    assert make_dataset(rows).image_fingerprint() != make_dataset(others[0]).image_fingerprint()

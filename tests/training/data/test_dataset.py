import pytest
import torch
from datasets import Image

from tests.training.data.rows import make_cell, make_plan, make_rows
from tests.training.data.shards import assert_equal_batches
from training.config import DataConfig
from training.data import (
    CaptionTokenizer,
    PairDataset,
    SkipError,
    decode_image,
    make_loader,
    tokenize,
)


def test_missing_column_raises_an_error_with_its_name(train_rows, tokenizer):
    config = DataConfig(train="tiny", image_column="photo")
    with pytest.raises(ValueError, match="no column 'photo'"):
        PairDataset(train_rows, config, CaptionTokenizer(tokenizer, 32), 64)


def test_row_needs_a_caption_in_one_language_only(make_dataset, images):
    cells = [make_cell(image) for image in images[:3]]
    rows = make_rows(cells, en=["frog", "cat", ""], zh=["青蛙", "", "狗"])
    built = make_dataset(rows)
    assert built.rows[0].tolist() == [0, 1, 2]
    batch = built.collate([(row, 0, 0, built[row]) for row in range(3)])
    assert batch["owner"].tolist() == [0, 0, 1, 2]
    assert batch["language"].tolist() == [0, 1, 0, 1]


def test_too_many_skips_raise_an_error_with_cause_and_limit(make_dataset, images):
    rows = make_rows([make_cell(image) for image in images[:4]], en=["frog", "", "", "cat"])
    with pytest.raises(SkipError, match=r"2 of 4 samples.*empty caption: 2.*max_skip_share=0.3"):
        make_dataset(rows, ("en",), max_skip_share=0.3)


def test_several_captions_of_a_row_are_used_in_turn(make_dataset, tokenizer, images):
    rows = make_rows([make_cell(images[0])], en=[["a frog", "green frog", "frog face"]])
    built = make_dataset(rows, ("en",))
    batch = built.collate([(0, epoch, epoch, built[0]) for epoch in range(6)])
    expected = tokenize(tokenizer, ["a frog", "green frog", "frog face"] * 2, 32)
    assert torch.equal(batch["input_ids"], expected["input_ids"])


def test_batch_has_the_captions_and_images_of_its_rows(make_dataset, train_rows, tokenizer):
    built = make_dataset()
    batch = built.collate([(row, 3, 3, built[row]) for row in (5, 40)])
    texts = [train_rows[row][language] for row in (5, 40) for language in ("en", "zh")]
    assert torch.equal(batch["input_ids"], tokenize(tokenizer, texts, 32)["input_ids"])
    assert batch["rows"].tolist() == [5, 40]
    assert batch["view_ids"].tolist() == [3, 3]
    cell = train_rows.cast_column("image", Image(decode=False))[40]["image"]
    assert torch.equal(batch["images"][1], decode_image(cell, 64))


def test_fields_of_a_nested_column_are_captions(tokenizer, images):
    names = [{"en": "frog", "zh": "青蛙"}, {"en": "cat", "zh": "猫"}]
    rows = make_rows([make_cell(image) for image in images[:2]], names=names)
    config = DataConfig(train="tiny", caption_columns={"en": "names.en", "zh": "names.zh"})
    built = PairDataset(rows, config, CaptionTokenizer(tokenizer, 32), 64)
    assert built.captions.read(1) == {"en": ["cat"], "zh": ["猫"]}
    assert isinstance(built[1], torch.Tensor)


def test_images_kept_in_memory_are_equal(make_dataset):
    kept = make_dataset(in_memory=True)
    fresh = make_dataset()
    assert torch.equal(kept[7], fresh[7])
    assert torch.equal(kept[7], fresh[7])


def test_a_fingerprint_knows_where_each_image_ends(make_dataset):
    def fingerprint(*contents):
        cells = [{"bytes": content, "path": None} for content in contents]
        return make_dataset(make_rows(cells, en=["a", "b"]), ("en",)).image_fingerprint()

    assert fingerprint(b"ab", b"c") == fingerprint(b"ab", b"c") != fingerprint(b"a", b"bc")


def test_damaged_image_is_replaced_by_the_next_row_so_that_batches_stay_full(make_dataset, images):
    cells = [make_cell(image) for image in images[:4]]
    cells[1] = {"bytes": b"broken", "path": None}
    built = make_dataset(
        make_rows(cells, en=["frog", "cat", "dog", "fox"]), ("en",), max_skip_share=0.5
    )
    loader = make_loader(built, make_plan(batch_size=1, stop=4))
    rows = [batch["rows"].item() for batch in loader]
    assert sorted(rows) == [0, 2, 2, 3]
    assert loader.skipped.causes == {1: "image does not decode"}
    assert loader.state() == {"causes": [(1, "image does not decode")]}


def test_data_without_an_image_that_decodes_raises_an_error(make_dataset):
    built = make_dataset(
        make_rows([{"bytes": b"broken", "path": None}] * 2, en=["frog", "cat"]), ("en",)
    )
    with pytest.raises(ValueError, match="no image of 'tiny' decodes"):
        list(make_loader(built, make_plan(batch_size=1, stop=1)))


def test_worker_processes_make_the_same_batches(make_dataset):
    alone, shared = (make_dataset(workers=workers) for workers in (0, 2))
    plan = make_plan(stop=3)
    assert_equal_batches(list(make_loader(alone, plan)), list(make_loader(shared, plan)))

"""Mixtures of sources: shares, and columns for each source."""

import pytest
import torch
from datasets import Dataset

from tests.training.data.rows import make_cell, make_rows
from tests.training.data.shards import keys_of
from training.config import DataConfig, SourceConfig
from training.data import BatchPlan, decode_image, make_loader
from training.engine.inputs import open_pairs


@pytest.fixture(scope="module")
def two_sources(train_rows, tmp_path_factory):
    """An English source of 24 rows with weight 3, and a Chinese one of 16 rows with weight 1."""
    folder = tmp_path_factory.mktemp("mixture")
    english = train_rows.select(range(24)).select_columns(["image", "en"])
    english.rename_column("en", "text").to_parquet(folder / "en.parquet")
    chinese = train_rows.select(range(24, 40)).select_columns(["image", "zh"])
    chinese.rename_column("image", "jpg").to_parquet(folder / "zh.parquet")
    return [
        SourceConfig(
            train=str(folder / "en.parquet"),
            caption_columns={"en": "text"},
            weight=3,
        ),
        SourceConfig(
            train=str(folder / "zh.parquet"),
            caption_columns={"zh": "zh"},
            image_column="jpg",
        ),
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_sources_are_mixed_by_weight_with_their_own_columns(two_sources, caption_tokens, streaming):
    config = DataConfig(sources=two_sources, shuffle_buffer=8, streaming=streaming)
    pairs = open_pairs(config, caption_tokens, 64)
    batches = list(make_loader(pairs, BatchPlan(8, 0, 0, 0, 40)))
    english = torch.stack([batch["language"] == 0 for batch in batches])
    assert english.shape == (40, 8)
    assert english.sum() == pytest.approx(240, abs=25)
    assert torch.equal(english, torch.stack([batch["sources"] == 0 for batch in batches]))
    assert len({row for row, _ in keys_of(batches)}) == 40


def test_source_without_a_usable_row_raises_an_error_with_its_name(
    caption_tokens, tmp_path, two_sources
):
    Dataset.from_dict({"text": ["", " "]}).to_parquet(tmp_path / "empty.parquet")
    empty = SourceConfig(train=str(tmp_path / "empty.parquet"), caption_columns={"en": "text"})
    config = DataConfig(sources=[two_sources[0], empty], max_skip_share=1.0)
    with pytest.raises(ValueError, match=r"empty.parquet' has no usable"):
        open_pairs(config, caption_tokens, None)


@pytest.mark.parametrize("streaming", [False, True])
def test_images_are_squashed_for_a_model_that_squashes_them(streaming, images, tmp_path):
    cell = make_cell(images[0].resize((96, 48)))
    path = str(tmp_path / "wide.parquet")
    make_rows([cell]).to_parquet(path)
    pairs = open_pairs(DataConfig(train=path, streaming=streaming), None, 64, squash=True)
    (batch,) = make_loader(pairs, BatchPlan(1, 0, 0, 0, 1))
    assert torch.equal(batch["images"][0], decode_image(cell, 64, squash=True))

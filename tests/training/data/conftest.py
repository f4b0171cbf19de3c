import pytest

from training.config import DataConfig
from training.data import CaptionTokenizer, PairDataset


@pytest.fixture
def caption_tokens(tokenizer):
    return CaptionTokenizer(tokenizer, 32)


@pytest.fixture
def make_dataset(train_rows, caption_tokens):
    """Function that makes a `PairDataset` with images of 64 pixels; keyword arguments are fields of `DataConfig`."""

    def make(rows=train_rows, languages=("en", "zh"), image_size=64, **fields):
        columns = {language: language for language in languages}
        defaults = {"train": "tiny", "caption_columns": columns}
        return PairDataset(rows, DataConfig(**defaults | fields), caption_tokens, image_size)

    return make

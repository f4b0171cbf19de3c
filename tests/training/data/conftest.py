import pytest

from training.config import DataConfig
from training.data import CaptionTokenizer, PairDataset


@pytest.fixture
def make_dataset(train_rows, tokenizer):
    """Function that makes a `PairDataset` with images of 64 pixels; keyword arguments are fields of `DataConfig`."""

    def make(rows=None, languages=("en", "zh"), **fields):
        columns = {language: language for language in languages}
        config = DataConfig(train="tiny", caption_columns=columns, **fields)
        return PairDataset(
            train_rows if rows is None else rows, config, CaptionTokenizer(tokenizer, 32), 64
        )

    return make

"""A data source from outside, as CONTRIBUTING.md describes it: a function, named as `module:function`."""

import sys
from types import ModuleType

from training.config import DataConfig
from training.data import CaptionTokenizer, PairDataset, load_source, make_loader
from training.data.sampling import BatchPlan
from training.data.stream import PairStream


def test_a_function_is_a_source(train_rows, tokenizer, monkeypatch):
    module = ModuleType("my_package_data")
    module.load_pairs = lambda: train_rows.select(range(8))
    monkeypatch.setitem(sys.modules, "my_package_data", module)
    source = "my_package_data:load_pairs"
    plan = BatchPlan(batch_size=4, seed=0, num_views=0, start=0, stop=2)
    whole = PairDataset([load_source(source)], DataConfig(train=source), CaptionTokenizer(tokenizer, 32), 64)
    stream = PairStream(DataConfig(train=source, streaming=True), CaptionTokenizer(tokenizer, 32), 64)
    for pairs in (whole, stream):
        batches = list(make_loader(pairs, plan))
        assert [tuple(batch["images"].shape) for batch in batches] == [(4, 3, 64, 64)] * 2

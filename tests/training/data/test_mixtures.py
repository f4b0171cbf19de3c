"""Several sources as one: shares, columns of their own, and batches of one source or one language."""

from collections import Counter

import pytest
import torch
from datasets import Dataset

from tests.training.data.shards import assert_equal, keys_of
from training.config import DataConfig, SourceConfig
from training.data import CaptionTokens, Group, KeyedBatches, Order, Pairs, make_loader
from training.data.turns import CYCLE, Turns
from training.engine.inputs import open_pairs


@pytest.fixture(scope="module")
def two_sources(train_rows, tmp_path_factory) -> list[SourceConfig]:
    """An English source of 24 rows, of which there shall be three times as many, and a Chinese one of 16."""
    folder = tmp_path_factory.mktemp("mixture")
    rows = train_rows.select_columns(["image", "en", "zh"])
    english, chinese = rows.select(range(24)), rows.select(range(24, 40))
    english.remove_columns("zh").rename_columns({"en": "text"}).to_parquet(folder / "en.parquet")
    chinese.remove_columns("en").rename_columns({"image": "jpg"}).to_parquet(folder / "zh.parquet")
    return [
        SourceConfig(train=str(folder / "en.parquet"), caption_columns={"en": "text"}, weight=3),
        SourceConfig(train=str(folder / "zh.parquet"), caption_columns={"zh": "zh"}, image_column="jpg"),
    ]


@pytest.fixture
def load(two_sources, tokenizer):
    def build(stop: int = 10, start: int = 0, process: tuple[int, int] = (0, 1), **fields) -> list[dict]:
        config = DataConfig(**{"sources": two_sources, "shuffle_buffer": 8} | fields)
        pairs: Pairs = open_pairs(config, CaptionTokens(tokenizer, 32), 64)
        order = Order(8, 0, 0, start, stop, *process)
        return list(make_loader(pairs, order))

    return build


def is_english(batch: dict[str, torch.Tensor]) -> list[bool]:
    return (batch["language"] == 0).tolist()


@pytest.mark.parametrize("weights", [[1, 1], [3, 1], [0.2, 0.3, 0.5], [1, 1, 1]])
def test_turns_have_their_shares_and_count_their_own(weights):
    turns = Turns(weights, (0,))
    groups, counts = zip(*(turns(position) for position in range(2 * CYCLE)), strict=True)
    for group, weight in enumerate(weights):
        own = [count for number, count in zip(groups, counts, strict=True) if number == group]
        assert own == list(range(len(own)))
        assert len(own) == pytest.approx(2 * CYCLE * weight / sum(weights), abs=2)
        early = sum(number == group for number in groups[:1000])
        assert early == pytest.approx(1000 * weight / sum(weights), abs=80)
    assert turns(CYCLE + 5) == Turns(weights, (0,))(CYCLE + 5)
    assert groups[:50] != tuple(Turns(weights, (1,))(position)[0] for position in range(50))


def test_a_weight_that_is_never_drawn_is_refused():
    with pytest.raises(ValueError, match="weight 1e-06 is less than 1/10000"):
        Turns([1.0, 1e-6], (0,))


@pytest.mark.parametrize("streaming", [False, True])
def test_sources_are_mixed_by_weight_with_columns_of_their_own(load, streaming):
    batches = load(stop=40, streaming=streaming)
    english = [is_ours for batch in batches for is_ours in is_english(batch)]
    assert len(english) == 320 and sum(english) == pytest.approx(240, abs=25)
    assert all(batch["owner"].tolist() == list(range(8)) for batch in batches)  # one caption an image
    assert sum(len(set(is_english(batch))) == 2 for batch in batches) > 25
    rows = Counter(row for row, _ in keys_of(batches))
    assert len(rows) == 40
    counts = {is_ours: set() for is_ours in (True, False)}
    for batch in batches:
        for row, is_ours in zip(batch["rows"].tolist(), is_english(batch), strict=True):
            counts[is_ours].add(rows[row])
    assert all(max(of_source) - min(of_source) <= 1 for of_source in counts.values())  # epoch after epoch


@pytest.mark.parametrize("streaming", [False, True])
def test_batches_of_one_source_are_of_the_same_one_on_all_processes(load, streaming):
    parts = [load(stop=24, process=(rank, 2), streaming=streaming, batches="one_source") for rank in (0, 1)]
    languages = [[set(is_english(batch)) for batch in part] for part in parts]
    assert languages[0] == languages[1] and all(len(found) == 1 for found in languages[0])
    assert sum(found == {True} for found in languages[0]) == pytest.approx(18, abs=6)
    assert len(set(map(str, languages[0]))) == 2
    keys = [keys_of(part) for part in parts]
    assert not set(keys[0]) & set(keys[1])


@pytest.mark.parametrize("streaming", [False, True])
def test_batches_of_one_language_take_turns_with_one_bilingual_source(load, corpus, streaming, train_rows):
    fields = {"sources": [], "train": str(corpus / "train.parquet"), "streaming": streaming}
    batches = load(stop=40, batches="one_language", **fields)
    languages = [set(batch["language"].tolist()) for batch in batches]
    assert all(len(found) == 1 for found in languages)
    assert sum(found == {0} for found in languages) == pytest.approx(20, abs=9)
    assert all(len(batch["owner"]) == 8 for batch in batches)
    (mixed,) = load(stop=1, **fields)
    assert len(mixed["owner"]) == 16


def test_a_row_without_a_caption_in_the_batches_language_waits_for_another(tokenizer, train_rows, tmp_path):
    rows = train_rows.select(range(8)).select_columns(["image", "en"])
    rows = rows.add_column("zh", [*train_rows["zh"][:5], None, None, None])
    rows.to_parquet(tmp_path / "pairs.parquet")
    for streaming in (False, True):
        config = DataConfig(
            train=str(tmp_path / "pairs.parquet"), batches="one_language", streaming=streaming, max_skip_share=0.9
        )
        batches = list(make_loader(open_pairs(config, CaptionTokens(tokenizer, 32), 64), Order(4, 0, 0, 0, 20)))
        assert all(len(batch["rows"]) == 4 for batch in batches)
        chinese = {row for batch in batches if batch["language"][0] == 1 for row in batch["rows"].tolist()}
        assert chinese == set(range(5))


def test_a_mixture_goes_on_as_if_it_had_not_stopped(load):
    for batches in ("mixed", "one_source"):
        assert_equal(load(start=4, batches=batches), load(batches=batches)[4:])


def test_processes_share_each_global_batch_of_a_mixture(two_sources):
    groups = [Group(0, ("en",), 3.0, torch.arange(24).numpy()), Group(1, ("zh",), 1.0, torch.arange(24, 40).numpy())]
    alone = list(KeyedBatches(groups, Order(8, 0, 0, 0, 12)))
    parts = [list(KeyedBatches(groups, Order(4, 0, 0, 0, 12, rank, 2))) for rank in (0, 1)]
    assert [left + right for left, right in zip(*parts, strict=True)] == alone


def test_equal_captions_of_two_sources_are_equal(tokenizer, train_rows, tmp_path):
    for number in range(2):
        train_rows.select([0]).select_columns(["image", "en"]).to_parquet(tmp_path / f"{number}.parquet")
    sources = [SourceConfig(train=str(tmp_path / f"{number}.parquet")) for number in range(2)]
    for streaming in (False, True):
        config = DataConfig(sources=sources, caption_columns={"en": "en"}, streaming=streaming, batches="mixed")
        (batch,) = make_loader(open_pairs(config, CaptionTokens(tokenizer, 32), None), Order(8, 0, 0, 0, 1))
        assert len(set(batch["caption_ids"].tolist())) == 1 and len(set(batch["rows"].tolist())) == 2


def test_a_source_without_a_usable_row_is_named(tokenizer, tmp_path, two_sources):
    Dataset.from_dict({"text": ["", " "]}).to_parquet(tmp_path / "empty.parquet")
    empty = SourceConfig(train=str(tmp_path / "empty.parquet"), caption_columns={"en": "text"})
    for streaming in (False, True):
        config = DataConfig(sources=[two_sources[0], empty], max_skip_share=1.0, streaming=streaming)
        with pytest.raises(ValueError, match=r"empty.parquet' has no usable"):
            list(make_loader(open_pairs(config, CaptionTokens(tokenizer, 32), None), Order(8, 0, 0, 0, 4)))

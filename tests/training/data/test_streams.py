"""Streams of tar shards, parquet files and HTTP: which worker reads which sample, and how a stream is resumed."""

import gzip
import json

import pytest
from datasets import IterableDataset
from PIL import Image as PILImage

from tests.tiny import encoded
from tests.training.data.shards import assert_equal_batches, keys_of, read_samples, write_shards
from training.config import DataConfig
from training.data import BatchPlan, PairStream, make_loader
from training.data.batch import text_id

pytestmark = pytest.mark.slow

NUM = 48  # samples, in three shards of 16
COLUMNS = {"image_column": "png", "caption_columns": {"en": "en.txt", "zh": "zh.txt"}}


@pytest.fixture(scope="module")
def samples(train_rows):
    return read_samples(train_rows, NUM)


@pytest.fixture(scope="module")
def shards(samples, tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), samples, 3)


@pytest.fixture
def open_loader(shards, caption_tokens):
    def build(states=(), batch_size=8, seed=0, start=0, stop=6, process=(), **fields):
        defaults = {"train": shards, "streaming": True, "shuffle_buffer": 10}
        pairs = PairStream(DataConfig(**defaults | COLUMNS | fields), caption_tokens, 64)
        return make_loader(pairs, BatchPlan(batch_size, seed, 0, start, stop, *process), states)

    return build


def test_fields_of_json_files_in_a_shard_are_captions(samples, open_loader):
    columns = {"en": "json.en", "zh": "json.zh"}
    (batch,) = open_loader(batch_size=NUM, stop=1, caption_columns=columns)
    expected = []
    for sample in samples:
        for language in ("en", "zh"):
            expected.append(text_id(sample[f"{language}.txt"].decode()))
    assert sorted(batch["caption_ids"].tolist()) == sorted(expected)


TWO_COLUMNS = {"image_column": "image", "caption_columns": {"en": "en", "zh": "zh"}}


def stream_of_two():
    """Function that a recipe can name as a source. It returns a stream without features."""

    def generate():
        image = {"bytes": encoded(PILImage.new("RGB", (64, 64), "red")), "path": None}
        yield {"image": image, "en": "frog", "zh": "青蛙"}
        yield {"image": image, "en": "cat", "zh": "猫"}

    return IterableDataset.from_generator(generate)


def test_a_function_may_return_a_stream(open_loader):
    source = "tests.training.data.test_streams:stream_of_two"
    (batch,) = open_loader(train=source, batch_size=2, stop=1, **TWO_COLUMNS)
    expected = [text_id(text) for text in ("frog", "青蛙", "cat", "猫")]
    assert sorted(batch["caption_ids"].tolist()) == sorted(expected)


def test_captions_and_views_take_turns_by_epoch_and_cut_captions_are_counted(
    train_rows, tmp_path, open_loader
):
    texts = ["a frog", ("frog " * 40).strip()]
    path = str(tmp_path / "a.parquet")
    rows = train_rows.select([0]).select_columns(["image"])
    rows.add_column("en", [texts]).to_parquet(path)
    columns = {"image_column": "image", "caption_columns": {"en": "en"}}
    loader = open_loader(train=path, batch_size=1, stop=2, **columns)
    for epoch, batch in enumerate(loader):
        assert batch["view_ids"].item() == epoch
        assert batch["caption_ids"].item() == text_id(texts[epoch])
    assert loader.skipped.captions == {"cut to 32 tokens": 1}


def test_every_epoch_has_every_sample_once_in_another_order(open_loader):
    keys = keys_of(list(open_loader(stop=12)))
    first = [row for row, view in keys if view == 0]
    second = [row for row, view in keys if view == 1]
    assert len(first) == len(set(first)) == NUM
    assert sorted(first) == sorted(second)
    other = [row for row, view in keys_of(list(open_loader(seed=1))) if view == 0]
    assert len({tuple(order) for order in (first, second, sorted(first), other)}) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_stream_yields_the_batches_of_an_uninterrupted_one(open_loader, workers):
    loader = open_loader(workers=workers, stop=9)
    whole = []
    states = []
    for batch in loader:
        whole.append(batch)
        states.append(json.loads(json.dumps(loader.state())))
    for start in (1, 6):
        resumed = open_loader([states[start - 1]], workers=workers, start=start, stop=9)
        assert_equal_batches(list(resumed), whole[start:])
        assert resumed.state() == states[-1]


def test_a_block_ends_at_its_budget_of_bytes_and_the_stream_resumes_there(open_loader, monkeypatch):
    monkeypatch.setattr("training.data.shards.MAX_BLOCK_BYTES", 1)  # so that nothing is shuffled
    whole = list(open_loader(stop=6))
    resumed = open_loader(stop=2)
    list(resumed)
    assert_equal_batches(list(open_loader(start=2, stop=6, states=[resumed.state()])), whole[2:])
    monkeypatch.undo()
    assert keys_of(list(open_loader(stop=6))) != keys_of(whole)


@pytest.mark.parametrize(("num_processes", "workers"), [(3, 0), (2, 2)])
def test_no_two_processes_or_workers_read_the_same_sample_in_an_epoch(
    open_loader, num_processes, workers
):
    """This includes more workers than shards, and a number of workers that does not divide the shards."""
    keys = []
    for rank in range(num_processes):
        process = (rank, num_processes)
        keys += keys_of(list(open_loader(workers=workers, batch_size=4, stop=12, process=process)))
    assert len(set(keys)) == len(keys)
    assert len({row for row, _ in keys}) == NUM


def test_stream_resumes_only_with_the_same_number_of_processes_and_workers(open_loader):
    loader = open_loader(stop=1)
    list(loader)
    with pytest.raises(
        ValueError, match=r"among 1 processes with 1 .* now among 2 with 1\. Resume with as many"
    ):
        open_loader([loader.state()], start=1, process=(0, 2))


def test_truncated_gzip_shard_raises_an_error_with_its_index(samples, tmp_path, open_loader):
    write_shards(tmp_path, samples, 2)
    packed = gzip.compress((tmp_path / "0001.tar").read_bytes())
    (tmp_path / "0001.tar.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"shard 1 of .* cannot be read on"):
        list(open_loader(train=[str(tmp_path / "0000.tar"), str(tmp_path / "0001.tar.gz")]))


def test_missing_column_raises_an_error_with_its_name(open_loader):
    with pytest.raises(ValueError, match=r"no column 'json.fr', only \['__key__'.*'json', 'png'"):
        open_loader(caption_columns={"en": "json.fr"})

"""Unusable samples are skipped and counted by cause, and too many stop the run; for rows and for streams."""

import json

import pyarrow as pa
import pytest
from datasets import Dataset

from tests.training.data.rows import make_rows
from tests.training.data.shards import read_samples, write_shards
from training.config import DataConfig
from training.data import (
    BatchPlan,
    SkipError,
    make_loader,
)
from training.data.skips import MIN_SEEN, SkipReport, StreamSkipReport
from training.engine.inputs import open_pairs

MODES = pytest.mark.parametrize("streaming", [False, True])


@pytest.fixture
def load(train_rows, caption_tokens, tmp_path):
    """Change some of eight samples; return one batch of the usable ones, and the skip report."""

    def build(changes, num_skipped, **fields):
        samples = read_samples(train_rows, 8)
        for number, change in changes.items():
            samples[number] |= change
        config = DataConfig(
            train=write_shards(tmp_path / "shards", samples, 1),
            image_column="png",
            caption_columns={"en": "en.txt", "zh": "zh.txt"},
            max_skip_share=0.9,
            **fields,
        )
        pairs = open_pairs(config, caption_tokens, 64)
        # read on, because an unusable sample may be the last of its epoch
        batch, _ = make_loader(pairs, BatchPlan(8 - num_skipped, 0, 0, 0, 2))
        return batch, pairs.skipped

    return build


@MODES
@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"png": b"broken"}, "image does not decode"),
        ({"en.txt": b" ", "zh.txt": b""}, "empty caption"),
        ({"en.txt": "青蛙".encode(), "zh.txt": b"frog"}, "caption in the wrong script"),
    ],
)
def test_every_cause_is_counted_and_batches_stay_full(load, streaming, change, cause):
    batch, skipped = load({3: change}, num_skipped=1, streaming=streaming)
    assert len(batch["rows"]) == 7
    assert streaming or 3 not in batch["rows"].tolist()
    assert f"{cause}: " in str(skipped)


WRONG_SCRIPT = {
    2: {"zh.txt": b"a frog"},
    4: {"en.txt": b"2020", "zh.txt": "2020 ！".encode()},
}


@MODES
@pytest.mark.parametrize("skips", [True, False])
def test_caption_in_the_wrong_script_is_left_out_if_that_is_checked(load, streaming, skips):
    batch, skipped = load(WRONG_SCRIPT, 0, streaming=streaming, skip_wrong_script=skips)
    assert len(batch["rows"]) == 8 and len(batch["owner"]) == 16 - skips
    assert list(skipped.captions) == ["caption in the wrong script (zh)"] * skips


def test_skips_of_all_processes_do_not_stop_a_run_that_has_ended():
    whole = SkipReport(max_share=0.01, total=100)
    part = SkipReport(max_share=0.01, total=100)
    whole.add(0, "damaged")
    part.add(1, "damaged")
    whole.merge([part.state()])
    assert len(whole.causes) == 2


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1, 2, 3], r"column 'zh' of 'tiny' holds int64, not text"),
        ([b"a", b"b", b"c"], r"column 'zh' of 'tiny' holds binary, not text"),
        ([None, None, None], r"'tiny' has no usable caption in 'zh'"),
        (["a", "b", "c"], r"'tiny' has no usable caption in 'zh' \(.*wrong script"),
        (
            ["。", "青蛙", "狗"],
            r"1 of 3 captions in 'zh' cannot be used, more than max_skip_share=0\.2",
        ),
    ],
)
def test_a_language_never_vanishes_silently(images, make_dataset, column, message):
    rows = make_rows(images[:3], en=["fox", "frog", "dog"], zh=column)
    with pytest.raises(ValueError, match=message):
        make_dataset(rows, max_skip_share=0.2)


def test_a_language_that_vanishes_in_a_stream_stops_the_run():
    report = StreamSkipReport(max_share=0.1)
    report.add_captions("zh", 0, ["caption is not a string"] * MIN_SEEN)
    total = StreamSkipReport(max_share=0.1)
    total.merge([json.loads(json.dumps(report.state()))])
    with pytest.raises(SkipError, match=f"{MIN_SEEN} of {MIN_SEEN} captions in 'zh' cannot be"):
        total.check_languages(MIN_SEEN)


def test_captions_that_are_not_utf_8_are_refused(make_dataset):
    buffers = pa.array([b"fox", b"\xff\xfe", b"dog"]).buffers()
    rows = Dataset(pa.table({"en": pa.Array.from_buffers(pa.string(), 3, buffers)}))
    with pytest.raises(ValueError, match="in rows 0 to 2 of the columns en is not UTF-8"):
        make_dataset(rows, ("en",), image_size=None)


def test_too_many_skips_in_a_stream_raise_an_error_with_cause_and_shard(
    train_rows, caption_tokens, tmp_path
):
    samples = read_samples(train_rows, 50)
    for number in range(5):
        samples[number]["png"] = b"broken"
    config = DataConfig(
        train=write_shards(tmp_path, samples, 2),
        streaming=True,
        max_skip_share=0.05,
        image_column="png",
        caption_columns={"en": "en.txt"},
    )
    pairs = open_pairs(config, caption_tokens, 64)
    message = r"of the 2\d\d samples seen so far .*does not decode.*=0\.05.*of shard 0 of"
    with pytest.raises(SkipError, match=message):
        list(make_loader(pairs, BatchPlan(10, 0, 0, 0, 45)))

"""Tar shards in webdataset's layout, and helpers that compare batches."""

import json
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import torch
from datasets import Dataset, Image

from training.data.batch import Batch


def read_samples(rows: Dataset, stop: int) -> list[dict[str, bytes]]:
    """The first rows as the files of a tar shard: `png`, `en.txt`, `zh.txt`, and `json` with both captions."""
    rows = rows.select(range(stop)).cast_column("image", Image(decode=False))
    return [
        {
            "png": row["image"]["bytes"],
            "en.txt": row["en"].encode(),
            "zh.txt": row["zh"].encode(),
            "json": json.dumps({"en": row["en"], "zh": [row["zh"]]}).encode(),
        }
        for row in rows
    ]


def write_shards(folder: Path, samples: Sequence[dict[str, bytes]], num_shards: int) -> str:
    """Write samples, evenly divided, and return a glob of the shards."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(samples) // num_shards)
    for number in range(num_shards):
        with tarfile.open(folder / f"{number:04d}.tar", "w") as tar:
            for index, sample in enumerate(samples[number * size : (number + 1) * size]):
                for extension, content in sample.items():
                    member = tarfile.TarInfo(f"{index:05d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))
    return str(folder / "*.tar")


def assert_equal_batches(batches: Sequence[Batch], expected: Sequence[Batch]):
    """Batches are bit-exact."""
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            assert torch.equal(batch[name], other[name]), name


def keys_of(batches: Sequence[Batch]) -> list[tuple[int, int]]:
    """Row and view id of every sample."""
    return [
        key
        for batch in batches
        for key in zip(batch["rows"].tolist(), batch["view_ids"].tolist(), strict=True)
    ]

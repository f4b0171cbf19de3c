"""Images and captions, from files to batches. `training.data.batch.Batch` documents the fields of a batch.

batch.py     the batch, a `TypedDict`: usable captions, their token ids, and how samples become a batch
captions.py  usable captions of rows, in memory-mapped tables
dataset.py   rows that can be looked up: `PairDataset`, and its loader
images.py    decode, resize, augment and normalize images
reader.py    open files, folders, Hub ids or functions, whole or as a stream; which images may be opened
sampling.py  which samples make up which batch, as pure functions of seed and step
shards.py    the shards of a stream: order, division among workers, shuffling, position
skips.py     what was skipped and why, with a limit
stream.py    streams of any size: `PairStream`, and its loader
"""

from collections.abc import Sequence
from typing import Any

from training.data.batch import CaptionTokenizer, tokenize, usable_captions
from training.data.dataset import PairDataset, RowLoader
from training.data.images import decode_image, decode_images, open_image
from training.data.reader import evenly_spaced_rows, load_source, require_allowed, rules_for
from training.data.sampling import BatchPlan, KeyedBatchSampler
from training.data.skips import SkipError
from training.data.stream import PairStream, StreamLoader

Pairs = PairDataset | PairStream
Loader = RowLoader | StreamLoader


def make_loader(pairs: Pairs, plan: BatchPlan, states: Sequence[dict[str, Any]] = ()) -> Loader:
    """Make the loader of a training process: its batches from `plan.start` to `plan.stop`.

    Args:
        pairs: Images and captions.
        plan: Batches of this process.
        states: Loader state of every training process at `plan.start`, to resume a run. Default: a new run.

    Raises:
        ValueError: A stream was divided among a different number of processes or workers before.
    """
    if isinstance(pairs, PairStream):
        return StreamLoader(pairs, plan, states)
    return RowLoader(pairs, plan, states)

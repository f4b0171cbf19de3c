"""Images and captions, from files to batches. `training.data.batch.Batch` documents the fields of a batch.

batch.py       the batch, a `TypedDict`, and how samples become one
captions.py    usable captions, and their token ids for student and teacher
dataset.py     `PairDataset`: images and captions whose rows can be looked up
image_bank.py  images without captions that stay in memory
images.py      which images may be opened; fetch, decode, resize and crop them
loader.py      `make_loader`: the batches of one training process
sampling.py    which samples make up which batch, as pure functions of seed and step
shards.py      the shards of a stream: order, division among workers, shuffling, position
skips.py       what was skipped and why, with a limit
sources.py     open files, folders, Hub ids or functions, whole or as a stream
stream.py      `PairStream`: images and captions from streams of any size
transforms.py  random views of images, and normalization
"""

from training.data.captions import CaptionTokenizer, tokenize, usable_captions
from training.data.dataset import PairDataset
from training.data.images import decode_image, decode_images, open_image, require_allowed, rules_for
from training.data.loader import Loader, Pairs, make_loader
from training.data.sampling import BatchPlan, KeyedBatchSampler, SampleGroup
from training.data.skips import SkipError
from training.data.sources import evenly_spaced_rows, load_source, require_columns
from training.data.stream import PairStream

__all__ = [
    "BatchPlan",
    "CaptionTokenizer",
    "KeyedBatchSampler",
    "Loader",
    "PairDataset",
    "PairStream",
    "Pairs",
    "SampleGroup",
    "SkipError",
    "decode_image",
    "decode_images",
    "evenly_spaced_rows",
    "load_source",
    "make_loader",
    "open_image",
    "require_allowed",
    "require_columns",
    "rules_for",
    "tokenize",
    "usable_captions",
]

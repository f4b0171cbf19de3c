"""Images and captions, from files to batches. `training.data.batch.Batch` documents the fields of a batch.

batch.py          the batch, a `TypedDict`
captions.py       usable captions, and their token ids for student and teacher
dataset.py        `PairDataset`: images and captions whose rows can be looked up
image_bank.py     images without captions that stay in memory
images.py         decode, resize and crop images; flatten transparent images onto white
loader.py         `make_loader`: the batches of one training process
named_images.py   which images that rows name by path or URL are opened
pair_stream.py    `PairStream`: images and captions from streams of any size
sampling.py       which samples make up which batch, as pure functions of seed and step
samples.py        one image with its captions, and samples as a batch
shard_stream.py   the shards of a stream: order, division among workers, shuffling, position
skips.py          what was skipped and why, with a limit
sources.py        open files, folders, Hub ids or functions, whole or as a stream
transforms.py     random views of images, and normalization
worker_stream.py  the batches that one decoding process makes of a stream
"""

from training.data.captions import CaptionTokenizer, tokenize, usable_captions
from training.data.dataset import PairDataset
from training.data.images import decode_image, decode_images, open_image
from training.data.loader import Loader, Pairs, make_loader
from training.data.named_images import require_allowed, rules_for
from training.data.pair_stream import PairStream
from training.data.sampling import BatchPlan, KeyedBatchSampler, SampleGroup, SampleKey
from training.data.skips import SkipError, SkipReport
from training.data.sources import evenly_spaced_rows, load_source, open_stream, require_columns

__all__ = [
    "BatchPlan",
    "CaptionTokenizer",
    "KeyedBatchSampler",
    "Loader",
    "PairDataset",
    "PairStream",
    "Pairs",
    "SampleGroup",
    "SampleKey",
    "SkipError",
    "SkipReport",
    "decode_image",
    "decode_images",
    "evenly_spaced_rows",
    "load_source",
    "make_loader",
    "open_image",
    "open_stream",
    "require_allowed",
    "require_columns",
    "rules_for",
    "tokenize",
    "usable_captions",
]

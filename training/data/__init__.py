"""From a source of images and captions to batches.

A batch is one dict; a run that needs captions alone has no images in it, and the other way round:

    rows            (B,) int64, row of each sample in all data; in a stream a number made of source, shard and place
    view_ids        (B,) int64, number of the random view to take of each image
    images        (B, 3, S, S) uint8, decoded, short side resized to S, centre-cropped
    input_ids       (T, L) int64, the captions of these rows in all languages, student tokens
    attention_mask  (T, L) int64
    owner           (T,) int64, which sample of the batch a caption belongs to
    caption_ids     (T,) int64, equal for equal captions, on all processes
    language        (T,) int64, index into `languages`
    teacher_input_ids, teacher_attention_mask   only where the teacher has another tokenizer
    aligned         (T,) bool, whether both read the same pieces; only where the student's vocabulary is a cut of the
                    teacher's
"""

from training.data.captions import CaptionTokens, tokenize, usable_captions
from training.data.dataset import PairDataset
from training.data.images import decode_image, decode_images, open_image, to_rgb
from training.data.loader import Loader, Pairs, make_loader
from training.data.pair_stream import PairStream
from training.data.skips import SkipError, SkipReport
from training.data.sources import load_source, open_stream, require_columns, sample_rows
from training.data.turns import Group, Key, KeyedBatches, Order

__all__ = [
    "CaptionTokens",
    "Group",
    "Key",
    "KeyedBatches",
    "Loader",
    "Order",
    "PairDataset",
    "PairStream",
    "Pairs",
    "SkipError",
    "SkipReport",
    "decode_image",
    "decode_images",
    "load_source",
    "make_loader",
    "open_image",
    "open_stream",
    "require_columns",
    "sample_rows",
    "to_rgb",
    "tokenize",
    "usable_captions",
]

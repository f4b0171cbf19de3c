"""Teacher targets that are computed once and stored, so that training runs without the teacher in memory.

    build.py              computes the shards that are missing
    cached.py             a finished cache as a source of targets
    shards.py             keys, shards and their checks

A cache is a folder:

    README.md                    what the folder holds, for people who get it from you
    images.json                  key of `images/`: everything that its targets depend on
    images/view-000-00000.safetensors
                                 some rows: feature map on the student's grid and embedding (fp16), and the random
                                 draws that made the view (float32)
    captions.json                key of `captions/`
    captions/00000.safetensors   some captions in alphabetical order: token states end to end (fp16), the offset of
                                 each caption, embedding (fp16)
    bank-*.safetensors           embeddings of a bank of texts (float32)
    teacher-REVISION/            the same files for each of several teachers

The targets of a teacher are the same bytes, alone or among others: adding a teacher computes only its own. A view is a
pure function of (seed, row, view number), so student and teacher encode the same image. Every shard has a
digest of its content. An interrupted run resumes at the first missing shard.
"""

from training.teachers.cache.build import build_target_cache, cached_bank, find_targets
from training.teachers.cache.cached import CachedTargets
from training.teachers.cache.shards import TargetCacheError

__all__ = ["CachedTargets", "TargetCacheError", "build_target_cache", "cached_bank", "find_targets"]

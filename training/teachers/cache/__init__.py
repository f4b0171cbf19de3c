"""Teacher targets that are computed once and stored, so that stage 1 trains without the teacher in memory.

    README.md                    what the folder holds, for whoever it is shared with
    images.json                the key: everything that the numbers under images/ depend on
    images/view-000-00000.safetensors
                                 of some rows: feature_map on the student's grid, embedding, and the random draws that
                                 made the view; fp16, float32
    captions.json, captions/00000.safetensors
                                 of some captions, in alphabetical order: token states end to end, where each starts,
                                 embedding; fp16
    bank-*.safetensors           the embeddings of a bank of texts; float32

A view is a pure function of (seed, row, number), so the student sees the very image that the teacher saw. Every
shard carries a digest of its content. An interrupted run goes on at the first shard that is missing.
"""

from training.teachers.cache.build import build_target_cache, cached_bank
from training.teachers.cache.cached import CachedTargets
from training.teachers.cache.shards import TargetCacheError

__all__ = ["CachedTargets", "TargetCacheError", "build_target_cache", "cached_bank"]

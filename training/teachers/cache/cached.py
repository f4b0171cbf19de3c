"""A finished cache, as a source of targets."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.transforms import Augment
from training.teachers import Targets
from training.teachers.cache.shards import (
    TargetCacheError,
    caption_file,
    caption_place,
    open_shard,
    read_meta,
    split_captions,
    view_file,
)
from training.teachers.targets import TargetSpec, resample_map


class CachedTargets:
    """Reads the targets that `build_target_cache` wrote.

    Args:
        folder: the cache.
        spec: what is asked for.
        device: of the batches.

    Raises:
        TargetCacheError: a shard is damaged.
    """

    def __init__(self, folder: Path, spec: TargetSpec, device: torch.device | str = "cpu"):
        self.spec, self.device, self.num_views = spec, torch.device(device), 1
        # memory-mapped: only what a batch asks for stays in memory
        if "vision" in spec.towers:
            meta = read_meta(folder / "images.json")
            self.num_views, self.rows_per_shard = meta["key"]["num_views"], meta["rows_per_shard"]
            shards = range(-(-meta["num_rows"] // self.rows_per_shard))
            self.views = [[open_shard(view_file(folder, view, n)) for n in shards] for view in range(self.num_views)]
        if "text" in spec.towers:
            meta = read_meta(folder / "captions.json")
            shards = range(len(split_captions(range(meta["num_captions"]))))
            self.captions = [open_shard(caption_file(folder, number)) for number in shards]

    def check_views(self, augment: Augment):
        """Compare the stored draws with those that this run makes.

        Raises:
            TargetCacheError: they differ, so that the student would see other images than the teacher saw.
        """
        for view, shards in enumerate(self.views):
            for number, shard in enumerate(shards):
                stored = shard["draws"]
                rows = torch.arange(len(stored)) + number * self.rows_per_shard
                made = augment.draws(rows, torch.full_like(rows, view))
                decoded = stored.any(1)
                if not torch.equal(stored[decoded], made[decoded]):
                    raise TargetCacheError(
                        "teacher_cache: its views were drawn by another version of the augmentation. Name another "
                        "folder, or remove this one."
                    )

    # autocast does not stack what is stored in another half precision than its own
    @torch.autocast("cpu", enabled=False)
    def images(self, images: Tensor, batch: dict[str, Any]) -> Targets:
        """Targets of the batch's (row, view) pairs."""
        keys = list(zip(batch["rows"].tolist(), batch["view_ids"].tolist(), strict=True))
        shards = [(self.views[view][row // self.rows_per_shard], row % self.rows_per_shard) for row, view in keys]
        embedding = torch.stack([shard["embedding"][row] for shard, row in shards]).to(self.device).float()
        if self.spec.grid is None:
            return Targets(None, embedding)
        maps = torch.stack([shard["feature_map"][row] for shard, row in shards])
        return Targets(resample_map(maps.to(self.device).float(), self.spec.grid), embedding)

    @torch.autocast("cpu", enabled=False)
    def texts(self, batch: dict[str, Any]) -> Targets:
        """Targets of the batch's captions; token states are padded with zeros."""
        keys = [caption_place(number) for number in batch["caption_ids"].tolist()]
        shards = [(self.captions[shard], number) for shard, number in keys]
        embedding = torch.stack([shard["embedding"][n] for shard, n in shards]).to(self.device).float()
        if not self.spec.token_maps:
            return Targets(None, embedding)
        states = [shard["states"][shard["start"][n] : shard["start"][n + 1]] for shard, n in shards]
        maps = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)  # (T, L, D)
        return Targets(maps.to(self.device).float(), embedding)

"""A finished cache as a source of targets."""

from pathlib import Path

import torch
from torch import Tensor

from training.data.batch import Batch
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
    """Targets that `build_target_cache` stored.

    Args:
        folder: Folder of the cache.
        spec: Targets that the run needs.
        device: Device of the batches.

    Raises:
        TargetCacheError: A shard is damaged.
    """

    def __init__(self, folder: Path, spec: TargetSpec, device: torch.device | str = "cpu"):
        self.spec, self.device, self.num_views = spec, torch.device(device), 1
        # memory-mapped: only the rows of the current batches stay in memory
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
        """Compare the stored random draws with those of this run.

        Args:
            augment: Augmentation of this run.

        Raises:
            TargetCacheError: They differ, so the student would encode other images than the teacher encoded.
        """
        for view, shards in enumerate(self.views):
            for number, shard in enumerate(shards):
                stored = shard["draws"]
                rows = torch.arange(len(stored)) + number * self.rows_per_shard
                drawn = augment.draws(rows, torch.full_like(rows, view))
                decoded = stored.any(1)
                if not torch.equal(stored[decoded], drawn[decoded]):
                    raise TargetCacheError(
                        "teacher_cache: its views were drawn by another version of the augmentation. Name another "
                        "folder, or remove this one."
                    )

    # under autocast, tensors in another half precision than its own cannot be stacked
    @torch.autocast("cpu", enabled=False)
    def images(self, images: Tensor, batch: Batch) -> Targets:
        """Targets of the rows and views of a batch.

        Args:
            images: Augmented images; unused.
            batch: Batch with `rows` and `view_ids`.
        """
        keys = list(zip(batch["rows"].tolist(), batch["view_ids"].tolist(), strict=True))
        shards = [(self.views[view][row // self.rows_per_shard], row % self.rows_per_shard) for row, view in keys]
        embedding = torch.stack([shard["embedding"][row] for shard, row in shards]).to(self.device).float()
        if self.spec.grid is None:
            return Targets(None, embedding)
        maps = torch.stack([shard["feature_map"][row] for shard, row in shards])  # (B, D, H, W)
        return Targets(resample_map(maps.to(self.device).float(), self.spec.grid), embedding)

    @torch.autocast("cpu", enabled=False)
    def texts(self, batch: Batch) -> Targets:
        """Targets of the captions of a batch; token states are padded with zeros."""
        keys = [caption_place(number) for number in batch["caption_ids"].tolist()]
        shards = [(self.captions[shard], number) for shard, number in keys]
        embedding = torch.stack([shard["embedding"][n] for shard, n in shards]).to(self.device).float()
        if not self.spec.token_maps:
            return Targets(None, embedding)
        states = [shard["states"][shard["start"][n] : shard["start"][n + 1]] for shard, n in shards]
        maps = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)  # (T, L, D)
        return Targets(maps.to(self.device).float(), embedding)

"""Teacher targets: computed at every step, or computed once and stored.

The cache holds, for a fixed number of views of each picture, the teacher's map on the student's grid and its
embedding, and for each caption its token states and its embedding; all in fp16 safetensors, one file a view. A view
is a pure function of (seed, picture, number), so that the student sees the very picture that the teacher saw. A cache
is keyed by everything that its numbers depend on, and one that was interrupted goes on at the first file that is
missing.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from training.data import PairDataset, tokenize
from training.teachers import Targets, Teacher, weights_fingerprint
from training.transforms import Augment, Normalize

META_FILE = "meta.json"


class TargetCacheError(ValueError):
    """The cache holds something else than what this run needs."""


def resample_map(feature_map: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, D, H, W) to (B, D, *grid), bilinear with antialiasing."""
    if feature_map.shape[-2:] == tuple(grid):
        return feature_map
    return F.interpolate(feature_map, tuple(grid), mode="bilinear", antialias=True, align_corners=False)


class LiveTargets:
    """Runs the teacher at every step.

    Args:
        teacher: on the device of the batches.
        grid: (height, width) of the student's map.
    """

    num_views = 0  # every epoch makes new views

    def __init__(self, teacher: Teacher, grid: tuple[int, int]):
        self.teacher, self.grid = teacher, tuple(grid)
        self.normalize = Normalize.from_processor(teacher.image_processor, teacher.image_size)

    def pictures(self, views: Tensor, batch: dict[str, Any]) -> Targets:
        """Targets of the augmented pictures (B, 3, S, S) in 0..255."""
        targets = self.teacher.encode_pictures(self.normalize(views))
        return Targets(resample_map(targets.feature_map, self.grid), targets.embedding)

    def texts(self, batch: dict[str, Any]) -> Targets:
        """Targets of the captions; the map is on the teacher's own tokens."""
        prefix = "teacher_" if "teacher_input_ids" in batch else ""
        return self.teacher.encode_texts(batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"])


class CachedTargets:
    """Reads the targets that `build_target_cache` wrote.

    Args:
        folder: the cache.
        grid: (height, width) of the student's map.
        device: of the batches.
    """

    def __init__(self, folder: Path, grid: tuple[int, int], device: torch.device | str = "cpu"):
        self.grid, self.device = tuple(grid), torch.device(device)
        meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        self.num_views = meta["key"]["num_views"]
        # memory-mapped: only what a batch asks for is read
        self.views = [load_file(_view_file(folder, view)) for view in range(self.num_views)]
        self.captions = load_file(folder / "captions.safetensors")

    def pictures(self, views: Tensor, batch: dict[str, Any]) -> Targets:
        """Targets of the batch's (picture, view) pairs."""
        rows, numbers = batch["picture_ids"].tolist(), batch["views"].tolist()
        maps = torch.stack([self.views[view]["feature_map"][row] for row, view in zip(rows, numbers, strict=True)])
        embeddings = torch.stack([self.views[view]["embedding"][row] for row, view in zip(rows, numbers, strict=True)])
        return Targets(resample_map(maps.to(self.device).float(), self.grid), embeddings.to(self.device).float())

    def texts(self, batch: dict[str, Any]) -> Targets:
        """Targets of the batch's captions; token states are padded with zeros."""
        ids = batch["caption_ids"].tolist()
        starts = self.captions["start"]
        states = [self.captions["states"][starts[i] : starts[i + 1]] for i in ids]
        maps = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)  # (T, L, D)
        return Targets(maps.to(self.device).float(), self.captions["embedding"][ids].to(self.device).float())


TargetSource = LiveTargets | CachedTargets


def cache_key(
    teacher: Teacher, dataset: PairDataset, augment: Augment, grid: tuple[int, int], num_views: int
) -> dict[str, Any]:
    """Everything that the numbers in a cache depend on, as JSON."""
    captions = hashlib.sha256("\n".join(dataset.caption_ids).encode()).hexdigest()[:16]
    return {
        "teacher": teacher.name,
        "teacher_weights": weights_fingerprint(teacher.model),
        "data": dataset.config.train,
        "data_fingerprint": dataset.fingerprint,
        "captions": captions,
        "picture_size": dataset.picture_size,
        "max_text_length": dataset.max_text_length,
        "augment": asdict(augment.config),
        "seed": augment.seed,
        "grid": list(grid),
        "num_views": num_views,
    }


def build_target_cache(
    folder: str | Path,
    teacher: Teacher,
    dataset: PairDataset,
    augment: Augment,
    grid: tuple[int, int],
    num_views: int,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> CachedTargets:
    """Fill the cache as far as it is not filled yet, and open it.

    Args:
        folder: where it lies.
        teacher: whose targets.
        dataset: of what.
        augment: how views are made.
        grid: (height, width) of the student's map.
        num_views: views a picture.
        batch_size: pictures or captions at once.
        device: where the teacher is.

    Raises:
        TargetCacheError: the folder holds targets of another teacher, data or transform.
    """
    folder = Path(folder)
    key = cache_key(teacher, dataset, augment, grid, num_views)
    _claim(folder, key)
    normalize = Normalize.from_processor(teacher.image_processor, teacher.image_size)
    missing = [view for view in range(num_views) if not _view_file(folder, view).exists()]
    with tqdm(total=len(missing) * len(dataset), desc="teacher targets", unit="view", disable=not missing) as progress:
        for view in missing:
            tensors = _view_targets(teacher, dataset, augment, normalize, grid, view, batch_size, device, progress)
            _save(tensors, _view_file(folder, view))
    if not (folder / "captions.safetensors").exists():
        _save(_caption_targets(teacher, dataset, batch_size, device), folder / "captions.safetensors")
    return CachedTargets(folder, grid, device)


def _claim(folder: Path, key: dict[str, Any]):
    folder.mkdir(parents=True, exist_ok=True)
    meta = folder / META_FILE
    if not meta.exists():
        note = (
            "fp16 teacher targets: view-*.safetensors (feature_map, embedding by row), captions.safetensors "
            "(states of all captions in alphabetical order, where each starts, embedding)"
        )
        meta.write_text(json.dumps({"holds": note, "key": key}, indent=2, ensure_ascii=False), encoding="utf-8")
        return
    found = json.loads(meta.read_text(encoding="utf-8"))["key"]
    for name, value in key.items():
        if found.get(name) != value:
            raise TargetCacheError(
                f"teacher_cache: {folder} holds targets for {name}={found.get(name)!r}, this run has "
                f"{name}={value!r}. Name another folder, or remove this one."
            )


def _view_file(folder: Path, view: int) -> Path:
    return folder / f"view-{view:03d}.safetensors"


def _save(tensors: dict[str, Tensor], path: Path):
    scratch = path.with_suffix(".tmp")
    save_file(tensors, scratch)
    scratch.replace(path)


def _batches(rows: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _view_targets(teacher, dataset, augment, normalize, grid, view, batch_size, device, progress) -> dict[str, Tensor]:
    maps: Tensor | None = None
    embeddings = torch.zeros(len(dataset), teacher.projection_dim, dtype=torch.float16)
    for rows in _batches(dataset.usable_rows.tolist(), batch_size):
        samples = [(row, picture) for row in rows if isinstance(picture := dataset[row], Tensor)]
        if samples:
            ids = torch.tensor([row for row, _ in samples])
            pictures = torch.stack([picture for _, picture in samples]).to(device)
            views = augment(pictures, ids, torch.full_like(ids, view))
            targets = teacher.encode_pictures(normalize(views))
            # never stored finer than the teacher sees
            stored = [min(ours, theirs) for ours, theirs in zip(grid, targets.feature_map.shape[-2:], strict=True)]
            if maps is None:
                maps = torch.zeros(len(dataset), teacher.vision_width, *stored, dtype=torch.float16)
            maps[ids] = resample_map(targets.feature_map, stored).half().cpu()
            embeddings[ids] = targets.embedding.half().cpu()
        progress.update(len(rows))
    if maps is None:
        raise TargetCacheError(
            f"teacher_cache: no picture of {dataset.config.train!r} decodes, so there is nothing to store."
        )
    return {"feature_map": maps, "embedding": embeddings}


def _caption_targets(teacher: Teacher, dataset: PairDataset, batch_size: int, device) -> dict[str, Tensor]:
    texts = list(dataset.caption_ids)
    states, lengths, embeddings = [], [], []
    tokenizer = dataset.teacher_tokenizer or dataset.tokenizer
    for numbers in tqdm(list(_batches(list(range(len(texts))), batch_size)), desc="teacher captions", unit="batch"):
        tokens = tokenize(tokenizer, [texts[number] for number in numbers], dataset.max_text_length)
        mask = tokens["attention_mask"].bool()
        targets = teacher.encode_texts(tokens["input_ids"].to(device), tokens["attention_mask"].to(device))
        states.append(targets.feature_map.cpu()[mask].half())  # right-padded, so each text's states stay together
        lengths.append(mask.sum(1))
        embeddings.append(targets.embedding.half().cpu())
    start = F.pad(torch.cat(lengths).cumsum(0), (1, 0))
    return {"states": torch.cat(states), "start": start, "embedding": torch.cat(embeddings)}

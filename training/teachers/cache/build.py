"""Computes what a cache is to hold, and goes on where it was interrupted."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from training.data import PairDataset, tokenize
from training.data.transforms import Augment, Normalize
from training.teachers import Teacher
from training.teachers.cache.cached import CachedTargets
from training.teachers.cache.shards import (
    TargetCacheError,
    batches,
    caption_file,
    claim,
    open_shard,
    read_meta,
    save,
    split_captions,
    view_file,
)
from training.teachers.targets import TargetSpec, encode_bank, resample_map

SHARD_BYTES = 256 * 2**20
README = """# Teacher targets

Targets of the teacher `{teacher}`, in fp16, made by DC-CLIP.
Revision of the teacher: `{revision}`. Licence of its weights: {license}.

- `images/`: {num_views} views each of {num_rows} images of `{data}`:
  the teacher's feature map, on a grid of {grid}, its embedding, and the random draws that made the view (their ranges
  stand in `images.json`).
- `captions/`: token states and embeddings of {num_captions} captions.

Give this folder as `--teacher_cache` to `training/distill.py` or `training/align.py`, with the same data, augmentation
and number of views; the teacher's towers are then not loaded. A folder that holds something else than a run needs is
refused. The images themselves are not in it. The numbers derive from the teacher's weights and from the data: the
licences of both apply.
"""


def build_target_cache(
    folder: str | Path,
    teacher: Teacher,
    dataset: PairDataset,
    augment: Augment,
    spec: TargetSpec,
    num_views: int,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> CachedTargets:
    """Compute what is missing, and open the cache.

    Args:
        folder: of the cache; made if it is not there.
        teacher: its towers are loaded only if something is missing, one at a time.
        dataset: images and captions, as far as `spec` asks for them.
        augment: makes the views.
        spec: what is asked for; a cache may hold more.
        num_views: views an image.
        batch_size: images or texts that the teacher sees at once.
        device: where the teacher runs, and of the batches.

    Raises:
        TargetCacheError: the folder holds targets of another teacher, data or transform, or a damaged shard.
        OSError: the disk is full; what was written stays, and the same call goes on from there.
    """
    folder = Path(folder)
    if "vision" in spec.towers:
        _cache_images(folder, teacher, dataset, augment, spec, num_views, batch_size, device)
    if "text" in spec.towers:
        _cache_captions(folder, teacher, dataset, spec, batch_size, device)
    _write_readme(folder, teacher, dataset)
    targets = CachedTargets(folder, spec, device)
    if "vision" in spec.towers:
        targets.check_views(augment)
    return targets


def cached_bank(folder: str | Path | None, teacher: Teacher, texts: Sequence[str], device: torch.device) -> Tensor:
    """Embeddings (N, D) of a bank of texts, read from the cache where they are there already.

    Args:
        folder: of the cache; None stores nothing.
        teacher: its text tower is loaded only if it must run, and released.
        texts: the bank.
        device: where the teacher runs.
    """
    if folder is None:
        return encode_bank(teacher.with_towers(("text",)).to(device), texts)
    key = hashlib.blake2b("\n".join([teacher.revision, *texts]).encode(), digest_size=8).hexdigest()
    path = Path(folder) / f"bank-{key}.safetensors"
    if not path.exists():
        save({"embedding": encode_bank(teacher.with_towers(("text",)).to(device), texts).cpu()}, path)
    return open_shard(path)["embedding"].to(device)


def _cache_images(
    folder: Path,
    teacher: Teacher,
    dataset: PairDataset,
    augment: Augment,
    spec: TargetSpec,
    num_views: int,
    batch_size: int,
    device: torch.device | str,
):
    """Write every shard of images that is not there yet."""
    key: dict[str, Any] = {
        "teacher_revision": teacher.revision,
        "teacher_dtype": str(teacher.model.dtype).removeprefix("torch."),
        "images": dataset.image_fingerprint(),
        "image_size": dataset.image_size,
        "augment": asdict(augment.config),
        "seed": augment.seed,
        "num_views": num_views,
    }
    numbers = 0
    if spec.grid is not None:
        key["grid"] = list(spec.grid)
        numbers = teacher.vision_width * spec.grid[0] * spec.grid[1]
    rows_per_shard = max(1, SHARD_BYTES // (2 * (numbers + teacher.projection_dim)))
    meta = claim(folder / "images.json", key, {"num_rows": len(dataset), "rows_per_shard": rows_per_shard})
    shards = [
        (view, number, range(start, min(start + meta["rows_per_shard"], len(dataset))))
        for view in range(num_views)
        for number, start in enumerate(range(0, len(dataset), meta["rows_per_shard"]))
    ]
    missing = [shard for shard in shards if not view_file(folder, *shard[:2]).exists()]
    if not missing:
        return
    teacher = teacher.with_towers(("vision",)).to(device)
    normalize = Normalize.from_processor(teacher.image_processor, teacher.image_size)
    with tqdm(total=sum(len(rows) for _, _, rows in missing), desc="teacher targets", unit="view") as progress:
        for view, number, rows in missing:
            tensors: dict[str, Tensor] = {}
            for chunk in batches(rows, batch_size):
                _encode_views(tensors, chunk, rows, teacher, dataset, augment, normalize, spec, view, device)
                progress.update(len(chunk))
            if not tensors:
                raise TargetCacheError(
                    f"teacher_cache: none of rows {rows.start} to {rows.stop - 1} of {dataset.config.name!r} decodes,"
                    " so there is nothing to store. Mend the data."
                )
            save(tensors, view_file(folder, view, number))


def _encode_views(
    tensors: dict[str, Tensor],
    chunk: Sequence[int],
    rows: range,
    teacher: Teacher,
    dataset: PairDataset,
    augment: Augment,
    normalize: Normalize,
    spec: TargetSpec,
    view: int,
    device: torch.device | str,
):
    """Put the targets of some rows of a shard into its tensors; rows that do not decode stay zero."""
    looked_up = zip(chunk, dataset.look_up(chunk), strict=True)
    samples = [(row, image) for row, image in looked_up if isinstance(image, Tensor)]
    if not samples:
        return
    ids = torch.tensor([row for row, _ in samples])
    numbers = torch.full_like(ids, view)
    views = augment(torch.stack([image for _, image in samples]).to(device), ids, numbers)
    targets = teacher.encode_images(normalize(views))
    found = {"embedding": targets.embedding.half().cpu(), "draws": augment.draws(ids, numbers)}
    if spec.grid is not None:
        # never stored finer than the teacher sees
        stored = [min(ours, theirs) for ours, theirs in zip(spec.grid, targets.feature_map.shape[-2:], strict=True)]
        found["feature_map"] = resample_map(targets.feature_map, stored).half().cpu()
    for name, value in found.items():
        tensors.setdefault(name, torch.zeros(len(rows), *value.shape[1:], dtype=value.dtype))[ids - rows.start] = value


def _cache_captions(
    folder: Path,
    teacher: Teacher,
    dataset: PairDataset,
    spec: TargetSpec,
    batch_size: int,
    device: torch.device | str,
):
    """Write every shard of captions that is not there yet."""
    tokens = dataset.tokens
    key = {
        "teacher_revision": teacher.revision,
        "teacher_dtype": str(teacher.model.dtype).removeprefix("torch."),
        "captions": dataset.caption_fingerprint(),
        "max_text_length": tokens.max_text_length,
    }
    if spec.token_maps:
        unaligned = "\n".join(sorted(tokens.unaligned)).encode()
        key |= {"token_maps": True, "unaligned": hashlib.blake2b(unaligned, digest_size=8).hexdigest()}
    texts = list(dataset.caption_ids)
    claim(folder / "captions.json", key, {"num_captions": len(texts)})
    shards = list(enumerate(split_captions(texts)))
    missing = [shard for shard in shards if not caption_file(folder, shard[0]).exists()]
    if not missing:
        return
    teacher = teacher.with_towers(("text",)).to(device)
    with tqdm(total=sum(len(part) for _, part in missing), desc="teacher captions", unit="caption") as progress:
        for number, part in missing:
            states, lengths, embeddings = [], [], []
            for chunk in batches(part, batch_size):
                encoded = tokenize(tokens.teacher, chunk, tokens.max_text_length)
                targets = teacher.encode_texts(encoded["input_ids"].to(device), encoded["attention_mask"].to(device))
                embeddings.append(targets.embedding.half().cpu())
                if spec.token_maps:
                    aligned = torch.tensor([text not in tokens.unaligned for text in chunk])
                    mask = encoded["attention_mask"].bool() & aligned[:, None]
                    # right-padded, so that each text's states stay together
                    states.append(targets.feature_map.half().cpu()[mask])
                    lengths.append(mask.sum(1))
                progress.update(len(chunk))
            tensors = {"embedding": torch.cat(embeddings)}
            if spec.token_maps:
                start = torch.nn.functional.pad(torch.cat(lengths).cumsum(0), (1, 0))
                tensors |= {"states": torch.cat(states), "start": start}
            save(tensors, caption_file(folder, number))


def _write_readme(folder: Path, teacher: Teacher, dataset: PairDataset):
    images = read_meta(folder / "images.json") if (folder / "images.json").exists() else {"key": {}}
    captions = read_meta(folder / "captions.json") if (folder / "captions.json").exists() else {}
    grid = images["key"].get("grid")
    text = README.format(
        teacher=teacher.name,
        revision=teacher.revision,
        license=teacher.license or "unknown",
        data=dataset.config.name,
        num_views=images["key"].get("num_views", 0),
        num_rows=images.get("num_rows", 0),
        grid=f"{grid[0]} x {grid[1]}" if grid else "none (embeddings only)",
        num_captions=captions.get("num_captions", 0),
    )
    path = folder / "README.md"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")

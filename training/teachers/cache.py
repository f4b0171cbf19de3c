"""Teacher targets that are computed once and stored, so that training runs without the teacher in memory.

A cache has a folder `teacher-REVISION` for each teacher:

    images.json                  key of `images/`: everything that its targets depend on
    images/view-000-00000.safetensors
                                 some rows: feature map on the student's grid and embedding (fp16)
    captions.json                key of `captions/`
    captions/00000.safetensors   some captions in alphabetical order: token states end to end (fp16), the offset of
                                 each caption, embedding (fp16)

Adding a teacher computes only its own targets. A view is a pure function of (seed, row, view number), so student and
teacher encode the same image. Every shard has a checksum. An interrupted run resumes at the first missing shard.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from training.data import CaptionTokenizer, PairDataset
from training.data.images import Augment, Normalize
from training.teachers import DualEncoder
from training.teachers.cached_targets import (
    CAPTIONS_PER_SHARD,
    CachedTargets,
    TargetCacheError,
    caption_file,
    claim,
    save,
    view_file,
)
from training.teachers.targets import TargetSpec, encode_by_length, resample_map
from training.text.pipeline import digest, read_pipeline
from training.utils.output import claim_folder

META_FILES = ("images.json", "captions.json")
FILES = ("images", "captions", *META_FILES)
SHARD_BYTES = 256 * 2**20
Item = TypeVar("Item")


def build_target_cache(
    folder: str | Path,
    teacher: DualEncoder,
    dataset: PairDataset,
    augment: Augment,
    spec: TargetSpec,
    num_views: int,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> CachedTargets:
    """Compute the targets that are missing, and open the cache.

    Args:
        folder: Folder of the cache of all teachers; created if it does not exist.
        teacher: Teacher. Its towers are loaded one at a time, and only if targets are missing.
        dataset: Images and captions, at least those that `spec` needs.
        augment: Augmentation that makes the views.
        spec: Targets that the run needs; the cache may hold more.
        num_views: Number of views of each image.
        batch_size: Number of images or texts that the teacher encodes at once.
        device: Device of the teacher and of the batches.

    Raises:
        TargetCacheError: The folder holds targets of a different teacher, data set or augmentation, or is damaged.
        OSError: The disk is full. Finished shards stay, and the same call resumes there.
    """
    folder = teacher_folder(folder, teacher)
    claimed: AbstractContextManager[None] = nullcontext()
    is_cache = any((folder / name).is_file() for name in META_FILES)
    if not is_cache or os.access(folder, os.W_OK):  # a finished cache may be read-only
        claimed = claim_folder(
            folder,
            FILES,
            command="teacher_cache",
            overwrite=is_cache,
            field="teacher_cache",
            flag=None,
            wait=True,
        )
    # runs of several seeds may share the folder: the second one waits, and finds the targets of the first
    with claimed:
        if "vision" in spec.towers:
            _cache_images(folder, teacher, dataset, augment, spec, num_views, batch_size, device)
        if "text" in spec.towers:
            _cache_captions(folder, teacher, dataset, dataset.tokens, spec, batch_size, device)
    return CachedTargets(folder, spec, device)


def teacher_folder(folder: str | Path, teacher: DualEncoder) -> Path:
    """Folder of one teacher's targets in a cache; no tower needs to be loaded."""
    return Path(folder) / f"teacher-{teacher.revision[:16]}"


def _teacher_key(teacher: DualEncoder) -> dict[str, Any]:
    return {
        "teacher_revision": teacher.revision,
        "teacher_dtype": str(teacher.model.dtype).removeprefix("torch."),
    }


def _text_preparation(teacher: DualEncoder) -> dict[str, Any]:
    """Tokenizer of the teacher's texts, which can change while its weights stay."""
    tokenizer = teacher.tokenizer
    name = digest(read_pipeline(tokenizer))[:16] if tokenizer.is_fast else type(tokenizer).__name__
    return {"tokenizer": name}


def _cache_images(
    folder: Path,
    teacher: DualEncoder,
    dataset: PairDataset,
    augment: Augment,
    spec: TargetSpec,
    num_views: int,
    batch_size: int,
    device: torch.device | str,
):
    """Compute the missing shards of images."""
    key: dict[str, Any] = _teacher_key(teacher) | {
        "images": dataset.image_fingerprint(),
        "image_size": dataset.image_size,
        "augment": asdict(augment.config),
        "seed": augment.seed,
        "num_views": num_views,
        "squash": dataset.squash or None,
    }
    map_size = 0
    if spec.grid is not None:
        key["grid"] = list(spec.grid)
        map_size = teacher.vision_width * spec.grid[0] * spec.grid[1]
    rows_per_shard = max(1, SHARD_BYTES // (2 * (map_size + teacher.projection_dim)))
    sizes = {"num_rows": len(dataset), "rows_per_shard": rows_per_shard}
    # size and statistics of the teacher's images can change while its weights stay
    key |= {
        name: list(getattr(teacher.image_processor, name)) for name in ("image_mean", "image_std")
    }
    meta = claim(folder / "images.json", key | {"teacher_image_size": teacher.image_size}, sizes)
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
    with tqdm(
        total=sum(len(rows) for _, _, rows in missing), desc="teacher targets", unit="view"
    ) as progress:
        for view, number, rows in missing:
            tensors: dict[str, Tensor] = {}
            for chunk in _chunks(rows, batch_size):
                loaded = zip(chunk, dataset.load_images(chunk), strict=True)
                samples = [(row, image) for row, image in loaded if isinstance(image, Tensor)]
                progress.update(len(chunk))
                if not samples:
                    continue
                ids = torch.tensor([row for row, _ in samples])
                views = augment.views(ids, torch.full_like(ids, view)).to(device)
                images = augment(torch.stack([image for _, image in samples]).to(device), views)
                targets = teacher.image_targets(normalize(images))
                values = {"embedding": targets.embedding.half().cpu()}
                if spec.grid is not None:
                    # never stored at a finer grid than the teacher's own
                    grid = [
                        min(sizes)
                        for sizes in zip(spec.grid, targets.required_map.shape[-2:], strict=True)
                    ]
                    values["feature_map"] = resample_map(targets.required_map, grid).half().cpu()
                for name, value in values.items():  # rows that do not decode stay zero
                    empty = torch.zeros(len(rows), *value.shape[1:], dtype=value.dtype)
                    tensors.setdefault(name, empty)[ids - rows.start] = value
            if not tensors:
                raise TargetCacheError(
                    f"teacher_cache: none of rows {rows.start} to {rows.stop - 1} of {dataset.config.name!r} decodes,"
                    " so there is nothing to store. Repair the data."
                )
            save(tensors, view_file(folder, view, number))


def _cache_captions(
    folder: Path,
    teacher: DualEncoder,
    dataset: PairDataset,
    tokens: CaptionTokenizer | None,
    spec: TargetSpec,
    batch_size: int,
    device: torch.device | str,
):
    """Compute the missing shards of captions."""
    if tokens is None:
        raise ValueError(
            "teacher_cache: the run needs targets of captions, but the data set has no captions."
        )
    unaligned_texts = tokens.unaligned or frozenset()
    key = _teacher_key(teacher) | _text_preparation(teacher)
    key |= {
        "captions": dataset.caption_fingerprint(),
        "max_text_length": tokens.max_text_length,
        "cleaning": tokens.clean.__name__ if tokens.clean is not None else None,
    }
    if spec.token_maps:
        unaligned = "\n".join(sorted(unaligned_texts)).encode()
        key |= {
            "token_maps": True,
            "unaligned": hashlib.blake2b(unaligned, digest_size=8).hexdigest(),
        }
    texts = list(dataset.caption_ids)
    claim(folder / "captions.json", key, {"num_captions": len(texts)})
    shards = list(enumerate(_chunks(texts, CAPTIONS_PER_SHARD)))
    missing = [shard for shard in shards if not caption_file(folder, shard[0]).exists()]
    if not missing:
        return
    teacher = teacher.with_towers(("text",)).to(device)
    with tqdm(
        total=sum(len(part) for _, part in missing), desc="teacher captions", unit="caption"
    ) as progress:
        for number, part in missing:
            encoded = tokens.tokenize_for_teacher(list(part))
            mask, lengths = encoded["attention_mask"], encoded["attention_mask"].sum(1)
            is_aligned = torch.tensor([text not in unaligned_texts for text in part])
            states: list[Tensor] = [torch.empty(0)] * len(part)

            def encode(
                indices: Tensor,
                encoded=encoded,
                mask=mask,
                lengths=lengths,
                is_aligned=is_aligned,
                states=states,
            ) -> tuple[Tensor]:
                length = int(lengths[indices[-1]])
                inputs = (
                    each[indices, :length].to(device) for each in (encoded["input_ids"], mask)
                )
                targets = teacher.text_targets(*inputs)
                if spec.token_maps:
                    maps = targets.required_map.half().cpu()
                    for index, tokens_of in zip(indices.tolist(), maps, strict=True):
                        states[index] = tokens_of[mask[index, :length].bool() & is_aligned[index]]
                progress.update(len(indices))
                return (targets.embedding.half().cpu(),)

            (embeddings,) = encode_by_length(lengths, batch_size, encode)
            tensors = {"embedding": embeddings}
            if spec.token_maps:
                start = torch.tensor([0, *map(len, states)]).cumsum(0)
                tensors |= {"states": torch.cat(states), "start": start}
            save(tensors, caption_file(folder, number))


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Split a sequence into consecutive parts of `size` items; the last part may have fewer."""
    for start in range(0, len(items), size):
        yield items[start : start + size]

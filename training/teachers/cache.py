"""Teacher targets that are computed once and stored, so that training runs without the teacher in memory.

A cache is a folder of one teacher's targets:

    images.json                  key of `images/`: everything that its targets depend on
    images/view-000-00000.safetensors
                                 some rows: feature map on the student's grid and embedding (fp16)
    captions.json                key of `captions/`
    captions/00000.safetensors   some captions in the order of their ids: token states end to end (fp16), the offset
                                 of each caption, embedding (fp16)

A view is a pure function of (seed, row, view number), so student and teacher encode the same image. A shard is
complete or absent: an interrupted run resumes at the first missing one. The processes of a run divide the missing
shards among them.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from training.data import PairDataset
from training.data.batch import Batch
from training.data.images import Augment, Normalize
from training.data.sampling import data_loader, image_bytes, num_workers
from training.teachers import DualEncoder, Targets
from training.teachers.targets import TargetSpec, encode_by_length, resample_map
from training.text.pipeline import digest, read_pipeline
from training.utils.files import atomic_write, write_json
from training.utils.keys import differences, make_key
from training.utils.output import claim_folder
from training.utils.process import at_own_pace
from training.utils.reading import read_mapping

IMAGES = "images"
CAPTIONS = "captions"
ROWS_PER_SHARD = 2048
CAPTIONS_PER_SHARD = 16384
GB = 10**9
# images or texts that a teacher encodes at once
CPU_BATCH = 64
GPU_BATCH = 256

log = logging.getLogger(__name__)


def build_target_cache(
    folder: str | Path,
    teacher: DualEncoder,
    dataset: PairDataset,
    augment: Augment,
    spec: TargetSpec,
    num_views: int,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
) -> "CachedTargets":
    """Compute the targets that are missing, and open the cache. Every process of a run calls this.

    Args:
        folder: Folder of the cache, which all processes share; created if it does not exist.
        teacher: Teacher. Its towers are loaded one at a time, and only if targets are missing.
        dataset: Images and captions, at least those that `spec` needs.
        augment: Augmentation that makes the views.
        spec: Targets that the run needs; the cache may hold more.
        num_views: Number of views of each image.
        batch_size: Number of images or texts that the teacher encodes at once. Default: chosen for the device.
        device: Device of the teacher and of the batches.

    Raises:
        ValueError: The folder holds targets of a different teacher, data set or augmentation, or is damaged; or
            the disk has too little space.
        OSError: The disk is full. Finished shards stay, and the same call resumes there.
    """
    state = PartialState()
    if batch_size is None:
        batch_size = CPU_BATCH if torch.device(device).type == "cpu" else GPU_BATCH
    folder = Path(folder)
    rows = _chunks(range(len(dataset)), ROWS_PER_SHARD)
    texts = list(dataset.captions or ())
    views: dict[Path, Any] = {}
    captions: dict[Path, Any] = {}
    if "vision" in spec.towers:
        for view in range(num_views):
            for number, part in enumerate(rows):
                path = folder / IMAGES / f"view-{view:03d}-{number:05d}.safetensors"
                views[path] = (view, part)
    if "text" in spec.towers:
        for number, part in enumerate(_chunks(texts, CAPTIONS_PER_SHARD)):
            captions[folder / CAPTIONS / f"{number:05d}.safetensors"] = part
    keys: dict[str, dict[str, Any]] = {}
    if views:
        keys[IMAGES] = _image_key(teacher, dataset, augment, num_views, spec)
    if captions:
        keys[CAPTIONS] = _caption_key(teacher, dataset, spec)
    is_cache = any((folder / f"{name}.json").is_file() for name in (IMAGES, CAPTIONS))
    with ExitStack() as claimed:
        with at_own_pace():
            # runs of several seeds may share the folder: the second one waits, and finds the targets of the first
            if state.is_main_process:
                claim = claim_folder(
                    folder,
                    (IMAGES, CAPTIONS, f"{IMAGES}.json", f"{CAPTIONS}.json"),
                    command="teacher_cache",
                    overwrite=is_cache,
                    field="teacher_cache",
                    flag=None,
                    wait=True,
                )
                claimed.enter_context(claim)
                for name, key in keys.items():
                    path = folder / f"{name}.json"
                    if not path.exists():
                        write_json(path, key)
        has_maps = {name: _compare(folder, name, key) for name, key in keys.items()}
        missing = [path for path in [*views, *captions] if not path.exists()]
        state.wait_for_everyone()  # until all have seen the same files
        own = missing[state.process_index :: state.num_processes]
        with at_own_pace():
            if images := {path: views[path] for path in own if path in views}:
                grid = has_maps[IMAGES]
                _fill(images, _view_encoder(teacher, dataset, augment, grid, batch_size, device))
            if others := {path: captions[path] for path in own if path in captions}:
                maps = has_maps[CAPTIONS]
                _fill(others, _caption_encoder(teacher, dataset, maps, batch_size, device))
    return CachedTargets(spec, list(views), list(captions), num_views, device)


def _image_key(
    teacher: DualEncoder,
    dataset: PairDataset,
    augment: Augment,
    num_views: int,
    spec: TargetSpec,
) -> dict[str, Any]:
    """Everything that the targets of images depend on."""
    processor = teacher.image_processor
    return _teacher_key(teacher) | {
        # size and statistics of the teacher's images can change while its weights stay
        "teacher_image_size": teacher.image_size,
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
        "images": dataset.image_fingerprint(),
        "image_size": dataset.image_size,
        "squash": dataset.squash,
        "augment": make_key(augment.config),
        "seed": augment.seed,
        "teacher_views": num_views,
        "maps": None if spec.grid is None else list(spec.grid),
    }


def _caption_key(teacher: DualEncoder, dataset: PairDataset, spec: TargetSpec) -> dict[str, Any]:
    """Everything that the targets of captions depend on."""
    tokens = dataset.tokens
    assert tokens is not None
    tokenizer = teacher.tokenizer
    # which can change while the weights stay
    name = digest(read_pipeline(tokenizer)) if tokenizer.is_fast else type(tokenizer).__name__
    return _teacher_key(teacher) | {
        "tokenizer": name,
        "captions": dataset.caption_fingerprint(),
        "max_text_length": tokens.max_text_length,
        "cleaning": tokens.clean.__name__ if tokens.clean is not None else None,
        "maps": True if spec.token_maps else None,
    }


def _teacher_key(teacher: DualEncoder) -> dict[str, Any]:
    dtype = str(teacher.dtype).removeprefix("torch.")
    return {"teacher": {"revision": teacher.revision, "dtype": dtype}}


def _compare(folder: Path, name: str, key: dict[str, Any]) -> Any:
    """Compare the key of a run with the key of the cache, and return its `maps`, which the run need not use.

    Raises:
        ValueError: The file of the key is damaged, or a field differs.
    """
    try:
        stored = read_mapping(folder / f"{name}.json", "teacher_cache")
    except ValueError as error:
        raise ValueError(f"{error} Or remove {folder / name}.") from error
    if key["maps"] is None:
        key["maps"] = stored.get("maps")
    if found := differences(stored, key):
        raise ValueError(
            f"teacher_cache: {folder / name} holds targets of a different run ({'; '.join(found)}). Name a different "
            "folder, or remove this one."
        )
    return key["maps"]


def _fill(shards: dict[Path, Any], encode: Callable[[Any], dict[str, Tensor]]):
    """Compute some shards and write each atomically. The first one tells the size of all."""
    is_main = PartialState().is_main_process
    first = next(iter(shards))
    for path, content in tqdm(shards.items(), "teacher targets", unit="shard", disable=not is_main):
        _save(encode(content), path)
        if is_main and path == first and len(shards) > 1:
            _require_space(path, (len(shards) - 1) * PartialState().num_processes)


def _require_space(path: Path, num_shards: int):
    """Announce the size of the shards that follow the first one, and refuse a disk that has no space for them."""
    size = path.stat().st_size * num_shards / GB
    free = shutil.disk_usage(path.parent).free / GB
    log.warning("teacher_cache: %s takes up to %.3g GB; %.3g GB are free", path.parent, size, free)
    if size > free:
        raise ValueError(
            f"teacher_cache: the targets take up to {size:.3g} GB, and {path.parent} has {free:.3g} GB free. Name a "
            "folder on a different disk, lower teacher_views, or leave teacher_cache out to run the teacher at every "
            "step."
        )


def _save(tensors: dict[str, Tensor], path: Path):
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(
                f"teacher_cache: the teacher's {name} is not finite in {tensor.dtype}. Train without a cache."
            )
    try:
        with atomic_write(path) as scratch:
            save_file({name: each.contiguous() for name, each in tensors.items()}, scratch)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"teacher_cache: cannot write {path} ({error}). Finished shards are kept: free some space, and run "
            "the same command again."
        ) from error


def _view_encoder(
    teacher: DualEncoder,
    dataset: PairDataset,
    augment: Augment,
    grid: Sequence[int] | None,
    batch_size: int,
    device: torch.device | str,
) -> Callable[[tuple[int, Sequence[int]]], dict[str, Tensor]]:
    """Function that encodes a view of some rows; images that do not decode, which no batch has, are black."""
    vision = teacher.with_towers(("vision",)).to(device)
    normalize = Normalize.from_processor(vision.image_processor, vision.image_size)
    assert dataset.image_size is not None
    num_bytes = batch_size * image_bytes(dataset.image_size)
    decode = partial(_decode, dataset)

    def encode(shard: tuple[int, Sequence[int]]) -> dict[str, Tensor]:
        view, rows = shard
        encoded = []
        # the workers decode the next images meanwhile
        loader = data_loader(
            _chunks(rows, batch_size),
            num_workers(dataset.config),
            num_bytes,
            batch_size=None,
            collate_fn=decode,
        )
        for ids, images in loader:
            changes = augment.views(ids, torch.full_like(ids, view))
            views = augment(
                images.to(device, non_blocking=True), changes.to(device, non_blocking=True)
            )
            targets = vision.image_targets(normalize(views))
            values = {"embedding": targets.embedding.half()}
            if grid is not None:
                # never stored at a finer grid than the teacher's own
                own = targets.required_map.shape[-2:]
                smaller = [min(sizes) for sizes in zip(grid, own, strict=True)]
                values["feature_map"] = resample_map(targets.required_map, smaller).half()
            encoded.append(values)
        return {name: torch.cat([each[name] for each in encoded]).cpu() for name in encoded[0]}

    return encode


def _decode(dataset: PairDataset, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows (B,) int64 and their images (B, 3, S, S) uint8."""
    assert dataset.image_size is not None
    black = torch.zeros(3, dataset.image_size, dataset.image_size, dtype=torch.uint8)
    images = [image if isinstance(image, Tensor) else black for image in dataset.load_images(rows)]
    return torch.tensor(rows), torch.stack(images)


def _caption_encoder(
    teacher: DualEncoder,
    dataset: PairDataset,
    token_maps: bool,
    batch_size: int,
    device: torch.device | str,
) -> Callable[[Sequence[str]], dict[str, Tensor]]:
    """Function that encodes some captions."""
    tower = teacher.with_towers(("text",)).to(device)
    tokens = dataset.tokens
    assert tokens is not None

    def encode(texts: Sequence[str]) -> dict[str, Tensor]:
        encoded = tokens.tokenize_for_teacher(list(texts))
        mask = encoded["attention_mask"]
        lengths = mask.sum(1)
        states: dict[int, Tensor] = {}

        def encode_some(indices: Tensor) -> tuple[Tensor]:
            length = int(lengths[indices[-1]])  # the last text is the longest
            ids = encoded["input_ids"][indices, :length].to(device, non_blocking=True)
            targets = tower.text_targets(ids, mask[indices, :length].to(device, non_blocking=True))
            if token_maps:
                maps = targets.required_map.half()
                for index, each in zip(indices.tolist(), maps, strict=True):
                    states[index] = each[: int(lengths[index])]
            return (targets.embedding.half(),)

        (embeddings,) = encode_by_length(lengths, batch_size, encode_some)
        if not token_maps:
            return {"embedding": embeddings.cpu()}
        start = torch.tensor([0, *lengths]).cumsum(0)
        joined = torch.cat([states[index] for index in range(len(texts))]).cpu()
        return {"embedding": embeddings.cpu(), "states": joined, "start": start}

    return encode


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Split a sequence into consecutive parts of `size` items; the last part may have fewer."""
    return [items[start : start + size] for start in range(0, len(items), size)]


class CachedTargets:
    """Targets that `build_target_cache` stored.

    Args:
        spec: Targets that the run needs.
        views: Shards of the views of the images, view by view; each has `ROWS_PER_SHARD` rows.
        captions: Shards of the captions; each has `CAPTIONS_PER_SHARD` captions.
        num_views: Number of views of each image.
        device: Device of the batches.

    Raises:
        ValueError: A shard is damaged.
    """

    def __init__(
        self,
        spec: TargetSpec,
        views: Sequence[Path],
        captions: Sequence[Path],
        num_views: int,
        device: torch.device | str = "cpu",
    ):
        self.spec = spec
        self.num_views = num_views
        self.device = torch.device(device)
        self.views = [_open_shard(path) for path in views]
        self.captions = [_open_shard(path) for path in captions]

    def read(self, batch: Batch) -> Batch:
        """Read the targets of a batch, for a loader that reads them in its workers.

        Returns:
            Fields of `Batch`: `image_targets`, `image_maps`, `text_targets` and `text_maps`, in float16.
        """
        fields: Batch = {}
        if self.views:
            shards_per_view = len(self.views) // self.num_views
            cells = []
            for row, view in zip(batch["rows"].tolist(), batch["view_ids"].tolist(), strict=True):
                number, place = divmod(row, ROWS_PER_SHARD)
                cells.append((self.views[view * shards_per_view + number], place))
            fields["image_targets"] = _take(cells, "embedding")
            if self.spec.grid is not None:
                fields["image_maps"] = _take(cells, "feature_map")  # (B, D, H, W)
        if self.captions:
            cells = []
            for caption in batch["caption_ids"].tolist():
                number, place = divmod(caption, CAPTIONS_PER_SHARD)
                cells.append((self.captions[number], place))
            fields["text_targets"] = _take(cells, "embedding")
            if self.spec.token_maps:
                states = []
                for shard, place in cells:
                    start, stop = shard["start"][place : place + 2]
                    states.append(shard["states"][start:stop])
                # a caption that the student splits differently can have more tokens for the teacher
                length = batch["input_ids"].shape[1]
                fields["text_maps"] = pad_sequence(states, batch_first=True)[
                    :, :length
                ]  # (T, L, D)
        return fields

    def images(self, images: Tensor, batch: Batch) -> Targets:
        """Targets of the images of a batch that has been `read`; the images themselves are unused."""
        maps = None
        if self.spec.grid is not None:
            maps = resample_map(self._on_device(batch["image_maps"]), self.spec.grid)
        return Targets(maps, self._on_device(batch["image_targets"]))

    def texts(self, batch: Batch) -> Targets:
        """Targets of the captions of a batch that has been `read`; token states are padded with zeros."""
        maps = self._on_device(batch["text_maps"]) if self.spec.token_maps else None
        return Targets(maps, self._on_device(batch["text_targets"]))

    def _on_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True).float()


def _take(cells: Sequence[tuple[dict[str, Tensor], int]], name: str) -> Tensor:
    """A tensor of shards at one place each."""
    return torch.stack([shard[name][place] for shard, place in cells])


def _open_shard(path: Path) -> dict[str, Tensor]:
    """Open the tensors of a shard, memory-mapped: only the rows of the current batches stay in memory."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"teacher_cache: {path} cannot be read ({error}). Remove this file, and run the same command to compute "
            "it again."
        ) from error

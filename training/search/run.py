"""Embed the missing shards of a collection with several processes, and write the index.

The processes divide the missing shards among them. Each writes its shards as Parquet files, which are complete or
absent, so a run that was interrupted continues with the others. The first process waits for the files of the others:
a barrier of the process group would time out.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from modeling_dcclip.graph_dcclip import check_engine
from modeling_dcclip.indexing_dcclip import num_cores
from modeling_dcclip.space_dcclip import fingerprint
from training.evaluation.embedding_cache import find_processes
from training.search.collection import Collection
from training.search.embedder import Embedder
from training.search.options import EmbedOptions
from training.search.shards import count_errors, count_rows, write_shard
from training.search.write_index import write_index
from training.utils.files import write_text
from training.utils.output import claim_folder
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

log = logging.getLogger(__name__)

KEY_FILE, SHARDS, INDEX = "embed.json", "shards", "index"
FILES = (KEY_FILE, SHARDS, INDEX, RESULTS_FILE)
POLL_S = 0.5


def embed(options: EmbedOptions) -> Results | None:
    """Embed a collection.

    Args:
        options: Model, data and output.

    Returns:
        Number of embedded images and of those that could not be read, by cause, in the first process; None in all
        others.

    Raises:
        ValueError: The data, the model or the engine cannot be used, the folder has embeddings of other data or of
            another model, or no image can be read.
        OSError: A shard cannot be read, or the disk is full. Finished shards stay.
    """
    check_engine(options.engine)  # now, and not after hours
    state, folder = find_processes(), Path(options.output_dir)
    collection = Collection(options)
    embedder = Embedder(
        options.model,
        device=state.device,
        threads=options.threads or _cores_per_process(),
        rules=collection.rules,
    )
    with ExitStack() as claimed:
        if state.is_main_process:
            inputs = {"model": options.model}
            claim = claim_folder(folder, FILES, command="embed", inputs=inputs, overwrite=options.overwrite)
            claimed.enter_context(claim)
        missing = _find_missing(state, folder, collection, embedder)
        began = time.monotonic()
        _embed_shards(missing[state.process_index :: state.num_processes], state, folder, collection, embedder)
        if not state.is_main_process:
            return None
        _wait(folder, missing)
        seconds = time.monotonic() - began
        shards = [_shard(folder, number) for number in range(len(collection))]
        results = _count(options, shards, [_shard(folder, number) for number in missing], seconds)
        if options.format == "index":
            write_index(shards, folder / INDEX, options.model, options.dtype, options.model_id, options.engine)
        results.write(folder)
    return results


def _cores_per_process() -> int:
    return max(1, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _shard(folder: Path, number: int) -> Path:
    return folder / SHARDS / f"{number:05d}.parquet"


def _failure(folder: Path, number: int) -> Path:
    return folder / SHARDS / f"{number:05d}.failed"


def _find_missing(state: PartialState, folder: Path, collection: Collection, embedder: Embedder) -> list[int]:
    """Numbers of the shards that are not embedded yet, as the first process finds them."""
    missing: list[int] = []
    if state.is_main_process:
        _check_key(folder / KEY_FILE, collection, embedder)
        for path in (folder / SHARDS).glob("*.failed"):
            path.unlink()
        missing = [number for number in range(len(collection)) if not _shard(folder, number).exists()]
    shared = [missing]
    if state.num_processes > 1:
        broadcast_object_list(shared)
    return shared[0]


def _check_key(path: Path, collection: Collection, embedder: Embedder):
    """Write what the shards depend on, or compare it with that of the shards that exist."""
    key = collection.identity() | {"weights": fingerprint(embedder.runtime), "encoder": embedder.encoder.name}
    if not path.exists():
        write_text(path, json.dumps(key, indent=1, ensure_ascii=False) + "\n")
        return
    try:
        earlier: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"output_dir: {str(path)!r} is damaged ({error}). Choose another folder.") from error
    if differing := [name for name in key if key[name] != earlier.get(name)]:
        name = differing[0]
        raise ValueError(
            f"output_dir: {str(path.parent)!r} has embeddings with {name} {earlier.get(name)!r}, and this run has "
            f"{key[name]!r}. Choose another folder."
        )


def _embed_shards(
    numbers: Sequence[int], state: PartialState, folder: Path, collection: Collection, embedder: Embedder
):
    """Embed the shards of this process. One that cannot be read is left out, and the others go on."""
    name = f"images of process {state.process_index + 1} of {state.num_processes}"
    total = None if collection.num_rows is None else round(collection.num_rows * len(numbers) / len(collection))
    with tqdm(total=total, desc=name, unit="image", disable=not state.is_main_process) as progress:
        for done, number in enumerate(numbers):
            tables = embedder.tables(collection.read(number), collection.options.batch_size)
            try:
                write_shard(_shard(folder, number), _shown(tables, progress), embedder.dimension)
            except ValueError as error:
                log.warning("%s", error)
                write_text(_failure(folder, number), str(error))
            if collection.num_rows is None:  # the number of rows of a stream is extrapolated
                progress.total = round(progress.n * len(numbers) / (done + 1))


def _shown(tables: Iterable[pa.Table], progress: tqdm) -> Iterable[pa.Table]:
    for table in tables:
        yield table
        progress.update(len(table))


def _wait(folder: Path, missing: Sequence[int]):
    """Wait until all processes have done their shards.

    Raises:
        OSError: A shard could not be read.
    """
    waiting = set(missing)
    while waiting := {n for n in waiting if not (_shard(folder, n).exists() or _failure(folder, n).exists())}:
        time.sleep(POLL_S)
    failures = [path for number in missing if (path := _failure(folder, number)).exists()]
    if failures:
        raise OSError(
            f"data: {len(failures)} of {len(missing)} shards could not be read. The first: "
            f"{failures[0].read_text(encoding='utf-8')} Finished shards are kept: run the same command again."
        )


def _count(options: EmbedOptions, shards: Sequence[Path], new: Sequence[Path], seconds: float) -> Results:
    """Count images and failures.

    Raises:
        ValueError: No image could be read.
    """
    errors = count_errors(shards)
    embedded = errors.pop(None, 0)
    if not embedded:
        causes = ", ".join(f"{cause}: {count}" for cause, count in errors.most_common())
        raise ValueError(f"data: no image of {' '.join(options.data)!r} could be read ({causes}). Name other data.")
    results = Results(make_meta(" ".join(options.data), None))
    results.rows.append(Row(model=options.model, metric="embedded", value=embedded))
    results.rows += [Row(model=options.model, metric=f"unreadable: {cause}", value=n) for cause, n in errors.items()]
    if new:
        results.rows.append(Row(model=options.model, metric="images_per_s", value=count_rows(new) / seconds))
    return results

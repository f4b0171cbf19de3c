"""The recall of a model that searches an index of an unrelated model, without and with a map."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Image

from modeling_dcclip.adapt_dcclip import adapt_index
from modeling_dcclip.index_dcclip import Index
from modeling_dcclip.space_dcclip import Space
from training.data import load_source
from training.data.images import encoded_bytes, image_cell
from training.evaluation.metrics.retrieval import recall_at_k
from training.search.embedder import Embedder
from training.studies.search.options import AdaptOptions
from training.studies.search.photographs import embed_photographs, read_captions
from training.utils.cli import command_of
from training.utils.files import scratch_folder
from training.utils.results import Results, Row, make_meta

DEPTHS = (1, 5, 10)
WITHOUT, MAPPED, OWN = "no map", "dcclip adapt", "own index"


@dataclass(frozen=True)
class Searcher:
    """One of the models, with its embeddings.

    Args:
        name: Name of its folder.
        embedder: The model.
        photographs: Embeddings of the photographs, (N, D) float32.
        texts: For each language the embeddings of its captions, (Q, D) float32.
    """

    name: str
    embedder: Embedder
    photographs: np.ndarray
    texts: dict[str, np.ndarray]


def measure_adapt(options: AdaptOptions, program: str) -> Results:
    """Measure both directions, and write results.json.

    Args:
        options: Options of the command.
        program: Command as users type it, without options.

    Raises:
        ValueError: There are not two models, they are related, or the data do not fit.
    """
    if len({Path(folder).name for folder in options.models}) != 2 or len(options.models) != 2:
        raise ValueError(f"models: got {' '.join(options.models)}, expected two folders with different names.")
    captions = read_captions(load_source(options.data))
    first, second = (_load(Path(folder), options.data, captions) for folder in options.models)
    targets = {language: rows for language, (_, rows) in captions.items()}
    folder = Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    meta = make_meta(options.data, None, command_of(program, options), models=options.models, sample=options.sample)
    results = Results(meta)
    with scratch_folder(folder / ".adapt") as scratch:
        sample = _write_sample(scratch / "sample", options)
        for owner, other in ((first, second), (second, first)):
            matrix, cosine = _fit(scratch / owner.name, sample, owner, other)
            results.rows.append(Row(model=other.name, metric="cosine", set=owner.name, stage=MAPPED, value=cosine))
            for stage, photographs, mapping in (
                (WITHOUT, owner.photographs, None),
                (MAPPED, owner.photographs, matrix),
                (OWN, other.photographs, None),
            ):
                results.rows += _recall(other, photographs, mapping, targets, stage, owner.name)
    results.write(folder)
    return results


def _load(folder: Path, data: str, captions: dict[str, tuple[list[str], np.ndarray]]) -> Searcher:
    embedder = Embedder(str(folder), device="cpu")
    texts = {language: embedder.runtime.encode_texts(each, truncate=True) for language, (each, _) in captions.items()}
    return Searcher(folder.name, embedder, embed_photographs(embedder, [data]), texts)


def _write_sample(folder: Path, options: AdaptOptions) -> Path:
    """Write the images of the sample as files, for an index."""
    folder.mkdir(parents=True)
    rows = load_source(options.sample).select_columns(["image"]).cast_column("image", Image(decode=False))
    for number, row in enumerate(rows.select(range(min(options.num_sample, len(rows))))):
        content = encoded_bytes(image_cell(row["image"]))
        if not content:
            raise ValueError(f"sample: row {number} of {options.sample!r} has no image. Remove it.")
        (folder / f"{number:06d}.jpg").write_bytes(content)
    return folder


def _fit(folder: Path, sample: Path, owner: Searcher, other: Searcher) -> tuple[np.ndarray, float]:
    """Index the sample with one model, and fit the map of the other, as `dcclip index` and `dcclip adapt` do."""
    with Index.open(folder, owner.embedder.runtime, create=True) as index:
        index.add(sample)
        fitted = adapt_index(index, other.embedder.runtime, sample=len(index))
        matrix = index.catalog.map(Space.of(other.embedder.runtime).weights)
    assert matrix is not None  # just stored
    return matrix, fitted.cosine


def _recall(
    searcher: Searcher,
    photographs: np.ndarray,
    mapping: np.ndarray | None,
    targets: dict[str, np.ndarray],
    stage: str,
    owner: str,
) -> list[Row]:
    """Recall at each depth. Without a map, embeddings of another width share their leading dimensions only."""
    rows = []
    for language, texts in searcher.texts.items():
        queries = texts if mapping is None else texts @ mapping  # (Q, D); their length changes no order
        width = min(queries.shape[1], photographs.shape[1])
        scores = queries[:, :width] @ photographs[:, :width].T  # (Q, N)
        pairs = torch.from_numpy(np.stack([np.arange(len(scores)), targets[language]], 1))  # (Q, 2)
        for depth in DEPTHS:
            value = recall_at_k(torch.from_numpy(scores), pairs, depth)
            metric = f"t2i_recall@{depth}"
            rows.append(
                Row(model=searcher.name, metric=metric, set=owner, stage=stage, language=language, value=value)
            )
    return rows

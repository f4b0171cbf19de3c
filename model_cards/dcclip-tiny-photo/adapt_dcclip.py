"""Search an index with a model of another embedding space, through a linear map that is fitted to photographs of the
index: no photograph is embedded again, beyond a sample.

The map is an orthogonal map plus a correction of low rank. The orthogonal part solves the Procrustes problem
(Schoenemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 31, 1966); between spaces of
different dimension it has orthonormal rows or columns. The correction is a reduced-rank ridge regression of its
residuals (Izenman, "Reduced-rank regression for the multivariate linear model", J. Multivariate Anal. 5, 1975). Rank
and ridge are chosen on held-out photographs, and rank 0 is among the choices.
"""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if __package__:
    from .index_dcclip import open_model
    from .indexing_dcclip import Progress
    from .photos_dcclip import UnreadablePhotoError, read_photo
    from .space_dcclip import Space
else:  # in a model folder
    from index_dcclip import open_model  # type: ignore[no-redef]
    from indexing_dcclip import Progress  # type: ignore[no-redef]
    from photos_dcclip import UnreadablePhotoError, read_photo  # type: ignore[no-redef]
    from space_dcclip import Space  # type: ignore[no-redef]

if TYPE_CHECKING:
    from .index_dcclip import Index
    from .runtime_dcclip import Runtime

RANKS = (0, 4, 16, 64, 256)
RIDGES = (0.001, 0.01, 0.1, 1.0)  # as a share of the mean variance of a dimension
HELD_OUT = 5  # every fifth pair


@dataclass(frozen=True)
class FittedMap:
    """A map between two embedding spaces.

    Args:
        matrix: Map to apply to row vectors from the right, (D_from, D_to) float32. The result is not normalised.
        rank: Rank of the correction.
        cosine: Mean cosine similarity of mapped and true embeddings of the held-out photographs.
        orthogonal_cosine: The same for the orthogonal part alone.
        num_pairs: Number of photographs that were embedded with both models.
    """

    matrix: np.ndarray
    rank: int
    cosine: float
    orthogonal_cosine: float
    num_pairs: int


def fit_map(source: np.ndarray, target: np.ndarray) -> FittedMap:
    """Fit a map from one embedding space to another.

    Args:
        source: Embeddings of one model, (N, D_from) float32, of unit length.
        target: Embeddings of the same photographs by the other model, (N, D_to) float32, of unit length.

    Returns:
        The map, fitted to all pairs with the rank and the ridge that suit held-out pairs best.

    Raises:
        ValueError: There are fewer pairs than twice the dimensions of the smaller space.
    """
    needed = 2 * min(source.shape[1], target.shape[1])
    if len(source) < needed:
        raise ValueError(
            f"sample: {len(source)} photographs are too few for a map between these models, which needs at least "
            f"{needed}. Pass a larger --sample, or embed the index again with dcclip index --upgrade MODEL."
        )
    held_out = np.arange(len(source)) % HELD_OUT == 0
    training, test = (source[~held_out], target[~held_out]), (source[held_out], target[held_out])
    choices = [(rank, ridge) for rank, ridge in itertools.product(RANKS, RIDGES) if rank or ridge == RIDGES[0]]
    cosines = [mean_cosine(test[0] @ _fit(*training, rank, ridge), test[1]) for rank, ridge in choices]
    best = int(np.argmax(cosines))
    matrix = _fit(source, target, *choices[best]).astype(np.float32)
    return FittedMap(matrix, choices[best][0], cosines[best], cosines[0], len(source))


def _fit(source: np.ndarray, target: np.ndarray, rank: int, ridge: float) -> np.ndarray:
    left, _, right = np.linalg.svd(source.T @ target, full_matrices=False)
    orthogonal = left @ right  # (D_from, D_to)
    if not rank:
        return orthogonal
    covariance = source.T @ source
    penalty = ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance), dtype=source.dtype)
    correction = np.linalg.solve(covariance + penalty, source.T @ (target - source @ orthogonal))
    _, _, directions = np.linalg.svd(source @ correction, full_matrices=False)
    return orthogonal + correction @ directions[:rank].T @ directions[:rank]


def mean_cosine(mapped: np.ndarray, target: np.ndarray) -> float:
    """Mean cosine similarity of corresponding rows; `target` has unit length."""
    return float(np.mean((mapped * target).sum(1) / np.linalg.norm(mapped, axis=1)))


def adapt_index(
    index: "Index",
    model: "Runtime | str | Path",
    *,
    model_id: str | None = None,
    sample: int = 2000,
    progress: Progress | None = None,
) -> FittedMap:
    """Fit a map from the space of a model to that of an index, and store it in the index.

    Args:
        index: Index to search.
        model: Model to search with, or its folder.
        model_id: Hub id of the model. Default: its folder.
        sample: Maximum number of photographs to embed.
        progress: Function that is called with the number of photographs done and the number to do.

    Returns:
        The map.

    Raises:
        ValueError: The model may search the index without a map, too few photographs can be read, or another process
            writes to the index.
    """
    runtime = open_model(model)
    space = Space.of(runtime, model_id)
    with index.writing():
        index.refresh()
        if index.match(runtime, space) is not None:
            raise ValueError(f"model: {space.model!r} shares the embedding space of the index, and needs no map.")
        files = index.catalog.files()
        chosen = files[:: -(-len(files) // sample)] if files else []
        source, rows = [], []
        for number, file in enumerate(chosen):
            try:
                photo = read_photo(os.fsencode(file.path), lambda digest: False, runtime.preprocess.edge)
            except UnreadablePhotoError:
                continue  # a sample needs no single photograph
            if photo.state == file.state and photo.image is not None:
                source.append(runtime.encode_images([photo.image])[0])
                rows.append(file.row)
            if progress is not None:
                progress(number + 1, len(chosen))
        fitted = fit_map(np.array(source).reshape(-1, runtime.dimension), index.store.read(np.array(rows, np.int64)))
        index.catalog.store_map(space.weights, fitted.matrix)
        facts = {"model": space.model, "rank": fitted.rank, "num_pairs": fitted.num_pairs}
        index.add_map(space.weights, facts | {"cosine": fitted.cosine})
    return fitted

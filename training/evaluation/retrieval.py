"""Image-text retrieval in both directions, in every language of a set."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.evaluation.metrics import grouped_interval, right_ranks
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.retrieval_sets import RetrievalSet
from training.utils.results import Row, markdown_table

PROTOCOL = "retrieval"
KS = (1, 5, 10)
MAX_SIMILARITIES = 2**24  # in memory at a time: 64 MiB in float32


def ranks(queries: Tensor, candidates: Tensor, pairs: Tensor, max_similarities: int = MAX_SIMILARITIES) -> Tensor:
    """Rank of the best correct candidate of each query, without the whole matrix of similarities in memory.

    Args:
        queries: Embeddings of the queries, (Q, D), L2-normalised.
        candidates: Embeddings of the candidates, (G, D), L2-normalised.
        pairs: Correct (query, candidate) pairs, (P, 2) int64.
        max_similarities: Number of similarities in memory at a time.

    Returns:
        Number of wrong candidates ranked before the best correct one, (A,) int64, for the A queries that have a
        correct candidate, in order; other queries are left out.

    Relations: `training.evaluation.metrics.right_ranks`, computed in chunks.
    """
    pairs = pairs[pairs[:, 0].argsort(stable=True)]
    query_ids, counts = pairs[:, 0].unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    size = max(1, max_similarities // len(candidates))
    found = []
    for start in range(0, len(query_ids), size):
        part = query_ids[start : start + size]
        own = pairs[ends[start] - counts[start] : ends[start + len(part) - 1]]
        rows = torch.searchsorted(part, own[:, 0].contiguous())
        found.append(right_ranks(queries[part] @ candidates.T, torch.stack([rows, own[:, 1]], 1)))
    return torch.cat(found)


def score(
    retrieval_set: RetrievalSet,
    language: str,
    images: Tensor,
    texts: Tensor,
    model: str,
    ks: Sequence[int] = KS,
    stage: str | None = None,
    seed: int | None = None,
) -> list[Row]:
    """Recall at k in both directions, in one language of a set.

    Args:
        retrieval_set: Images with captions.
        language: Language of the captions.
        images: Embeddings of the images, (N, D), L2-normalised.
        texts: Embeddings of the captions, (T, D), L2-normalised.
        model: Model name, written to the rows.
        ks: Values of k; those greater than the number of candidates are left out.
        stage: Training stage, written to the rows.
        seed: Seed of the training run, written to the rows.

    Returns:
        Rows with the metrics `image_to_text_R@k` and `text_to_image_R@k`. Their intervals take into account that
        captions of an image, and equal captions, are found or missed together.
    """
    pairs, rows = retrieval_set.pairs[language], []
    image_of_text = torch.full((len(texts),), len(images)).scatter_reduce(0, pairs[:, 1], pairs[:, 0], "amin")
    found_texts, found_images = ranks(images, texts, pairs), ranks(texts, images, pairs.flip(1))
    directions = {
        "image_to_text": (found_texts, len(texts), torch.arange(len(found_texts))),
        "text_to_image": (found_images, len(images), image_of_text),
    }
    for direction, (found, num_candidates, groups) in directions.items():
        for k in (k for k in ks if k <= num_candidates):
            hits = found < k
            rows.append(
                Row(
                    model=model,
                    stage=stage,
                    set=retrieval_set.name,
                    protocol=PROTOCOL,
                    language=language,
                    metric=f"{direction}_R@{k}",
                    value=int(hits.sum()) / len(hits),
                    seed=seed,
                    interval=grouped_interval(hits, groups),
                )
            )
    return rows


def measure(
    model: ZeroShotModel,
    retrieval_set: RetrievalSet,
    name: str,
    ks: Sequence[int] = KS,
    stage: str | None = None,
    seed: int | None = None,
) -> list[Row]:
    """Encode a set, and measure recall at k in both directions, in every language.

    Args:
        model: Model to measure.
        retrieval_set: Images with captions.
        name: Model name, written to the rows.
        ks: Values of k, as in `score`.
        stage: Training stage, written to the rows.
        seed: Seed of the training run, written to the rows.
    """
    images, rows = model.encode_images(retrieval_set.rows), list[Row]()
    for language, captions in retrieval_set.captions.items():
        rows += score(retrieval_set, language, images, model.encode_texts(captions), name, ks, stage, seed)
    return rows


def retrieval_table(rows: Sequence[Row], retrieval_sets: Sequence[RetrievalSet]) -> str:
    """Recall in percent as a Markdown table, one row per model, set and language, followed by the size of each set.

    Args:
        rows: Rows of a result.
        retrieval_sets: Sets that were measured.
    """
    found = [row for row in rows if row.protocol == PROTOCOL]
    metrics = list(dict.fromkeys(row.metric for row in found))
    header = ["model", "set", "language", *(metric.replace("_", " ") for metric in metrics)]
    lines = [header, ["---"] * len(header)]
    for key in dict.fromkeys((row.model, row.set, row.language) for row in found):
        values = {row.metric: row.value for row in found if (row.model, row.set, row.language) == key}
        cells = [f"{100 * values[metric]:.1f}" if metric in values else "" for metric in metrics]
        lines.append([*map(str, key), *cells])
    return "\n\n".join([markdown_table(lines), *(_describe(retrieval_set) for retrieval_set in retrieval_sets)])


def _describe(retrieval_set: RetrievalSet) -> str:
    counts = ", ".join(f"{len(texts):,} {language} captions" for language, texts in retrieval_set.captions.items())
    source = " ".join(filter(None, (retrieval_set.source, retrieval_set.split)))
    return f"{retrieval_set.name}: {source}, {len(retrieval_set.rows):,} images, {counts}"

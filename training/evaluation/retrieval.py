"""Retrieval: which caption belongs to an image and which image to a caption, in every language of a source."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.evaluation.metrics import right_ranks, wilson_interval
from training.evaluation.sets.pairs import PairSet
from training.utils.results import Row, markdown_table

PROTOCOL = "retrieval"
KS = (1, 5, 10)
AT_ONCE = 2**24  # similarities held at a time: 64 MiB


def ranks(queries: Tensor, candidates: Tensor, pairs: Tensor, at_once: int = AT_ONCE) -> Tensor:
    """How many wrong candidates stand before each query's best right one, without the whole matrix of similarities.

    Args:
        queries: (Q, D), L2-normalised.
        candidates: (G, D), L2-normalised.
        pairs: (P, 2), the right (query, candidate) pairs.
        at_once: similarities held at a time.

    Returns:
        (A,) int64, A the queries that have a right candidate, in order; the others are not asked.

    Relations: `training.evaluation.metrics.right_ranks`, in parts.
    """
    pairs = pairs[pairs[:, 0].argsort(stable=True)]
    asked, counts = pairs[:, 0].unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    size = max(1, at_once // len(candidates))
    found = []
    for start in range(0, len(asked), size):
        part = asked[start : start + size]
        own = pairs[ends[start] - counts[start] : ends[start + len(part) - 1]]
        places = torch.searchsorted(part, own[:, 0].contiguous())
        found.append(right_ranks(queries[part] @ candidates.T, torch.stack([places, own[:, 1]], 1)))
    return torch.cat(found)


def score(
    pair_set: PairSet,
    language: str,
    seen: Tensor,
    read: Tensor,
    model: str,
    ks: Sequence[int] = KS,
    stage: str | None = None,
    seed: int | None = None,
) -> list[Row]:
    """Recall at k both ways, in one language of a source.

    Args:
        pair_set: what is searched.
        language: of its captions.
        seen: (images, D), L2-normalised.
        read: (captions, D), L2-normalised.
        model: written to the rows.
        ks: which recalls; those beyond the number of candidates are left out.
        stage: written to the rows.
        seed: written to the rows.

    Returns:
        `image_to_text_R@k` and `text_to_image_R@k`.
    """
    pairs, rows = pair_set.pairs[language], []
    ways = {
        "image_to_text": (ranks(seen, read, pairs), len(read)),
        "text_to_image": (ranks(read, seen, pairs.flip(1)), len(seen)),
    }
    for way, (found, num_candidates) in ways.items():
        for k in (k for k in ks if k <= num_candidates):
            share = int((found < k).sum()) / len(found)
            interval = wilson_interval(share, len(found))
            rows.append(
                Row(
                    model=model,
                    stage=stage,
                    set=pair_set.name,
                    protocol=PROTOCOL,
                    language=language,
                    metric=f"{way}_R@{k}",
                    value=share,
                    seed=seed,
                    interval=interval,
                )
            )
    return rows


def retrieval_table(rows: Sequence[Row], pair_sets: Sequence[PairSet]) -> str:
    """A row a model, set and language, in percent, as Markdown; then what was searched."""
    found = [row for row in rows if row.protocol == PROTOCOL]
    metrics = list(dict.fromkeys(row.metric for row in found))
    header = ["model", "set", "language", *(metric.replace("_", " ") for metric in metrics)]
    lines = [header, ["---"] * len(header)]
    for key in dict.fromkeys((row.model, row.set, row.language) for row in found):
        values = {row.metric: row.value for row in found if (row.model, row.set, row.language) == key}
        cells = [f"{100 * values[metric]:.1f}" if metric in values else "" for metric in metrics]
        lines.append([*map(str, key), *cells])
    return "\n\n".join([markdown_table(lines), *(_in_words(pair_set) for pair_set in pair_sets)])


def _in_words(pair_set: PairSet) -> str:
    counts = ", ".join(f"{len(texts):,} {language} captions" for language, texts in pair_set.captions.items())
    place = " ".join(filter(None, (pair_set.source, pair_set.split)))
    return f"{pair_set.name}: {place}, {len(pair_set.rows):,} images, {counts}"

"""Retrieval: how high the right candidate stands."""

import torch
from torch import Tensor

from training.evaluation.metrics.inputs import check_k, check_range, check_scores, parts, rows_of_a_part


def right_ranks(scores: Tensor, pairs: Tensor) -> Tensor:
    """For every query, the number of wrong candidates that stand before its best right one.

    A wrong candidate with the same score stands before it: a model that scores all alike finds nothing.

    Args:
        scores: (Q, G), query by candidate.
        pairs: (P, 2) whole numbers, the right (query, candidate) pairs, in any order; at least one a query. With
            images as queries and several captions an image, these are (image, caption).

    Returns:
        (Q,) int64 in 0..G-1.

    Raises:
        ValueError: no query or candidate, a score that is not finite, pairs of another shape or out of range, or a
            query without a right candidate.

    Relations: text-to-image from image-to-text is `right_ranks(scores.T, pairs.flip(1))`.
    """
    check_scores(scores)
    num_queries, num_candidates = scores.shape
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.is_floating_point():
        raise ValueError(
            f"pairs: got shape {tuple(pairs.shape)} of {pairs.dtype}, need (P, 2) whole numbers. "
            "Pass one (query, candidate) row for each right pair."
        )
    check_range("pairs, first column", pairs[:, 0], num_queries, "queries")
    check_range("pairs, second column", pairs[:, 1], num_candidates, "candidates")
    queries, candidates = pairs.to(scores.device).long().unique(dim=0).unbind(1)  # a pair given twice counts once
    unanswered = (queries.bincount(minlength=num_queries) == 0).nonzero()[:, 0]
    if len(unanswered):
        raise ValueError(
            f"pairs: query {int(unanswered[0])} has no right candidate, as {len(unanswered)} of {num_queries}. "
            "Leave such queries out of the scores; a candidate may stay without a query."
        )
    own = scores[queries, candidates]
    best = scores.new_zeros(num_queries).scatter_reduce(0, queries, own, "amax", include_self=False)
    as_high = [
        (part >= bar[:, None]).sum(1)
        for part, bar in zip(parts(scores), best.split(rows_of_a_part(scores)), strict=True)
    ]
    right = queries[own == best[queries]].bincount(minlength=num_queries)
    return torch.cat(as_high) - right


def recall_at_k(scores: Tensor, pairs: Tensor, k: int) -> float:
    """Share of queries with a right candidate among the k highest scores: R@k.

    One right candidate suffices, as the field reports it on Flickr30k, COCO and MUGE; five captions an image count as
    one query with five right answers. (`RecallAtKEvaluator` of `vision-evaluation` is another thing: the share of the
    right candidates that are found.) Ties count against the model, as `right_ranks` says.

    Args:
        scores: (Q, G), query by candidate.
        pairs: (P, 2) whole numbers, the right (query, candidate) pairs; at least one a query.
        k: 1..G.

    Returns:
        In 0..1.

    Raises:
        ValueError: as `right_ranks`, or k out of range.

    Relations: text-to-image from image-to-text is `recall_at_k(scores.T, pairs.flip(1), k)`.

    Source: Karpathy and Fei-Fei, CVPR 2015, section 4.1; Chinese-CLIP, Yang et al., arXiv 2211.01335.
    """
    ranks = right_ranks(scores, pairs)
    check_k(k, scores.shape[1], "candidates")
    return int((ranks < k).sum()) / len(ranks)

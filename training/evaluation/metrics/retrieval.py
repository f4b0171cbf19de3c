"""Retrieval: rank of the correct candidate, and recall at k."""

import torch
from torch import Tensor

from training.evaluation.metrics.checks import check_k, check_range, check_scores, chunks, rows_per_chunk


def right_ranks(scores: Tensor, pairs: Tensor) -> Tensor:
    """For every query, the number of wrong candidates ranked before its best correct one.

    A wrong candidate with the same score ranks before it, so that a model with equal scores for all finds nothing.

    Args:
        scores: Scores of candidates, (Q, G), query by candidate.
        pairs: Correct (query, candidate) pairs, (P, 2) integers, in any order; at least one per query. With images as
            queries and several captions per image, these are (image, caption).

    Returns:
        (Q,) int64 in 0..G-1.

    Raises:
        ValueError: There is no query or candidate, a score is not finite, pairs have another shape or are out of
            range, or a query has no correct candidate.

    Relations: text-to-image from image-to-text is `right_ranks(scores.T, pairs.flip(1))`.
    """
    check_scores(scores)
    num_queries, num_candidates = scores.shape
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.is_floating_point():
        raise ValueError(
            f"pairs: got shape {tuple(pairs.shape)} of {pairs.dtype}, need (P, 2) integers. "
            "Pass one (query, candidate) row for each correct pair."
        )
    check_range("pairs, first column", pairs[:, 0], num_queries, "queries")
    check_range("pairs, second column", pairs[:, 1], num_candidates, "candidates")
    queries, candidates = pairs.to(scores.device).long().unique(dim=0).unbind(1)  # a repeated pair counts once
    without_candidate = (queries.bincount(minlength=num_queries) == 0).nonzero()[:, 0]
    if len(without_candidate):
        raise ValueError(
            f"pairs: query {int(without_candidate[0])} has no correct candidate ({len(without_candidate)} of "
            f"{num_queries} queries have none). Leave such queries out of the scores; a candidate needs no query."
        )
    own = scores[queries, candidates]
    best = scores.new_zeros(num_queries).scatter_reduce(0, queries, own, "amax", include_self=False)
    num_as_high = [
        (part >= own_best[:, None]).sum(1)
        for part, own_best in zip(chunks(scores), best.split(rows_per_chunk(scores)), strict=True)
    ]
    num_correct_as_high = queries[own == best[queries]].bincount(minlength=num_queries)
    return torch.cat(num_as_high) - num_correct_as_high


def recall_at_k(scores: Tensor, pairs: Tensor, k: int) -> float:
    """Share of queries with a correct candidate among the k highest scores: R@k.

    One correct candidate suffices, as is usual on Flickr30k, COCO and MUGE: an image with five captions is one query
    with five correct candidates. `RecallAtKEvaluator` of `vision-evaluation` computes another metric, the share of the
    correct candidates that are found. Ties count against the model, as in `right_ranks`.

    Args:
        scores: Scores of candidates, (Q, G), query by candidate.
        pairs: Correct (query, candidate) pairs, (P, 2) integers; at least one per query.
        k: Number of highest scores, in 1..G.

    Returns:
        Value in 0..1.

    Raises:
        ValueError: An input of `right_ranks` is invalid, or k is out of range.

    Relations: text-to-image from image-to-text is `recall_at_k(scores.T, pairs.flip(1), k)`.

    Source: Karpathy and Fei-Fei, CVPR 2015, section 4.1; Chinese-CLIP, Yang et al., arXiv 2211.01335.
    """
    ranks = right_ranks(scores, pairs)
    check_k(k, scores.shape[1], "candidates")
    return int((ranks < k).sum()) / len(ranks)

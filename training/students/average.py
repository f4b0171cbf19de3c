"""Weighted means of the weights of models that have the same layers."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor


def average_weights(
    models: Sequence[Mapping[str, Tensor]], shares: Callable[[str], Sequence[float]]
) -> dict[str, Tensor]:
    """Average the weights of models. On the way from one to another, students are often better than at either end.

    Args:
        models: Weights of each model by the same names. Integers, such as the counts of BatchNorm, are the first's.
        shares: Function from the name of a weight to the share of each model; they sum to 1.

    Source: Wortsman et al., model soups (arXiv 2203.05482) and WiSE-FT (arXiv 2109.01903).
    """
    averaged = dict(models[0])
    for name, tensor in models[0].items():
        if tensor.is_floating_point():
            parts = zip(shares(name), models, strict=True)
            averaged[name] = sum((share * model[name] for share, model in parts), start=0 * tensor)
    return averaged

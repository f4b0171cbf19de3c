"""Factorised token embeddings: a narrow table and a projection in place of a wide table."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """Projections between wide and narrow token embeddings.

    Args:
        basis: Principal directions of the wide embeddings, (D, E) float32 with orthonormal columns.
        weight: Weight of the projection from narrow to wide embeddings, (D, E) float32.
        bias: Bias of this projection, (D,) float32.
    """

    basis: Tensor
    weight: Tensor
    bias: Tensor

    def narrow(self, table: Tensor) -> Tensor:
        """Project a table of embeddings to the principal directions.

        Args:
            table: Wide embeddings, (N, D).

        Returns:
            Narrow embeddings, (N, E).
        """
        return table.to(self.basis) @ self.basis


def factorise(embeddings: Tensor, width: int, norm_weight: Tensor, norm_bias: Tensor) -> Factors:
    """Find the factors that reproduce a tower's normalized token embeddings best.

    The source normalizes D channels, then scales and shifts each. The student normalizes E channels and projects to D,
    so the projection has the scale and the shift, and the factor between the lengths of both normalized vectors.

    Args:
        embeddings: The source's embeddings of the student's tokens, (V, D).
        width: Width E of the student's embeddings, at most D.
        norm_weight: Weight of the LayerNorm after the source's embeddings, (D,).
        norm_bias: Bias of this LayerNorm, (D,).

    Source: the factorised embedding of ALBERT, Lan et al., arXiv 1909.11942; its start from a pretrained table by
        principal components is a choice of this implementation.
    """
    table = embeddings.float()
    _, vectors = torch.linalg.eigh(table.T @ table)  # ascending
    basis = vectors[:, -width:].flip(1)
    scale = (table.shape[1] / width) ** 0.5
    return Factors(basis, norm_weight.float()[:, None] * basis * scale, norm_bias.float())

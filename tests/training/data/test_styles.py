"""Paintings and pencil drawings of images."""

import pytest
import torch

from training.data.styles import paint, sketch

SIZE = 32


def half_and_half() -> torch.Tensor:
    """An image that is dark on the left and light on the right."""
    image = torch.full((1, 3, SIZE, SIZE), 40.0)
    image[..., SIZE // 2 :] = 200
    return image


@pytest.mark.parametrize("radius", [1, 3, 7])
def test_painting_keeps_edges_sharp(radius):
    torch.testing.assert_close(paint(half_and_half(), radius), half_and_half(), rtol=0, atol=1e-3)


def test_painting_removes_texture_within_strokes():
    texture = 20 * torch.rand((1, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    painted = paint(half_and_half() + texture, 3)
    left = (..., slice(0, SIZE // 2))
    assert painted[left].std() < 0.4 * texture[left].std()
    assert (painted[..., SIZE // 2] - painted[..., SIZE // 2 - 1]).min() > 140


def test_pencil_draws_the_edge_and_leaves_the_rest_white():
    drawn = sketch(half_and_half(), 2)
    assert drawn.shape == (1, 3, SIZE, SIZE) and torch.equal(drawn[:, 0], drawn[:, 2])
    torch.testing.assert_close(drawn[..., :8], torch.full_like(drawn[..., :8], 255))
    assert drawn[..., SIZE // 2 - 1].max() < 130


def test_a_black_image_has_no_pencil_lines_of_nan():
    assert sketch(torch.zeros(1, 3, 8, 8), 2).isfinite().all()

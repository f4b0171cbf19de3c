import pytest
import torch
import torch.nn.functional as F

from training.tasks import losses
from training.tasks.losses import (
    feature_map_loss,
    info_nce,
)
from training.tasks.task import scalar


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


def test_nothing_to_compare_gives_zero_and_not_nan(draw):
    scale = torch.tensor(3.0)
    no_pair = torch.zeros(2, 3).bool()
    assert feature_map_loss(draw(1, 3, 4), draw(1, 3, 4), torch.zeros(1, 3), dim=-1) == 0
    assert info_nce(draw(2, 4), draw(3, 4), scale, no_pair) == 0


def test_a_large_matrix_in_slices_gives_the_same_loss_and_gradients(draw, monkeypatch):
    positive = draw(7, 10) > 0.5
    images = F.normalize(draw(7, 6), dim=-1).requires_grad_()
    texts = F.normalize(draw(10, 6), dim=-1).requires_grad_()
    leaves = [images, texts, torch.tensor(10.0, requires_grad=True)]
    whole = info_nce(*leaves, positive)
    gradients = torch.autograd.grad(whole, leaves)
    monkeypatch.setattr(losses, "MAX_PAIRS", 25)
    sizes = []

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sliced = info_nce(*leaves, positive)
    assert max(sizes) < positive.numel()  # kept for the backward pass: embeddings, and no matrix
    torch.testing.assert_close(sliced, whole)
    torch.testing.assert_close(torch.autograd.grad(sliced, leaves), gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [1.0, torch.zeros(2)])
def test_a_loss_that_returns_no_scalar_is_named(value):
    with pytest.raises(ValueError, match=r"(?s)^the loss 'own' returned .*, expected a scalar"):
        scalar(value, "own")

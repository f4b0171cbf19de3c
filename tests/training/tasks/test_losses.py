from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from training.tasks import losses
from training.tasks.losses import (
    affinity_loss,
    feature_map_loss,
    info_nce,
    positives,
    sigmoid_loss,
)
from training.tasks.task import scalar


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


def test_positives_are_own_captions_and_equal_ones():
    # images 0 and 2 are two drawings of the same thing; image 1 has two captions, image 3 none
    owner = torch.tensor([0, 1, 1, 2])
    caption_ids = torch.tensor([5, 6, 7, 5])
    expected = [[1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]]
    assert positives(owner, caption_ids, 4).int().tolist() == expected


def test_nothing_to_compare_gives_zero_and_not_nan(draw):
    assert feature_map_loss(draw(1, 3, 4), draw(1, 3, 4), torch.zeros(1, 3), dim=-1).item() == 0
    assert info_nce(draw(2, 4), draw(3, 4), torch.tensor(1.0), torch.zeros(2, 3).bool()).item() == 0
    image, text = F.normalize(draw(3, 4), dim=1), draw(0, 4)
    positive = torch.zeros(3, 0).bool()
    scale = torch.tensor(3.0)
    assert sigmoid_loss(image, text, scale, torch.tensor(0.0), positive).item() == 0
    assert affinity_loss((image, text), (image, text), scale, 2.0).item() == 0


LARGE_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "info_nce": lambda student, teacher, scale, positive: info_nce(
        student[0], student[1], scale, positive
    ),
    "affinity": lambda student, teacher, scale, positive: affinity_loss(
        student, teacher, scale, 8.0
    ),
}


@pytest.mark.parametrize("name", LARGE_LOSSES)
def test_a_large_matrix_in_slices_gives_the_same_loss_and_gradients(draw, monkeypatch, name):
    positive = draw(7, 10) > 0.5
    student, teacher = ([F.normalize(draw(n, 6), dim=-1) for n in (7, 10)] for _ in range(2))
    found, most = [], []
    for limit in (2**22, 25):
        monkeypatch.setattr(losses, "MAX_PAIRS", limit)
        leaves = [tensor.clone().requires_grad_() for tensor in student]
        scale = torch.tensor(10.0, requires_grad=True)
        kept: list[torch.Tensor] = []

        def keep(tensor: torch.Tensor, kept=kept) -> torch.Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = LARGE_LOSSES[name](tuple(leaves), tuple(teacher), scale, positive)
        gradients = torch.autograd.grad(
            loss, [*leaves, scale], allow_unused=True, materialize_grads=True
        )
        found.append((loss, *gradients))
        most.append(max(tensor.numel() for tensor in kept))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)
    assert most[0] == 70 and most[1] < 70  # saved for the backward pass: embeddings, and no matrix


@pytest.mark.parametrize("value", [1.0, None, {}, torch.zeros(2)])
def test_a_loss_that_returns_no_scalar_is_named(value):
    with pytest.raises(ValueError, match=r"^the loss 'own' returned .*, expected a scalar tensor"):
        scalar(value, "own")
    assert scalar(torch.tensor(2.0), "own") == 2

"""Parameters that no loss reaches, which processes would wait for."""

import torch
from torch import Tensor, nn

from training.engine.loop import freeze_unreached


class Task(nn.Module):
    """A task whose head is not used."""

    def __init__(self):
        super().__init__()
        self.norm, self.tower, self.head = nn.BatchNorm1d(2), nn.Linear(2, 1), nn.Linear(2, 1)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.tower(self.norm(batch)) * self.frozen).sum()}


def test_layers_that_no_loss_reaches_are_frozen_and_statistics_stay():
    task = Task()
    freeze_unreached(task, torch.rand(4, 2))
    learned = {name for name, each in task.named_parameters() if each.requires_grad}
    assert learned == {"norm.weight", "norm.bias", "tower.weight", "tower.bias"}
    assert not task.norm.running_mean.any()
    assert all(each.grad is None for each in task.parameters())

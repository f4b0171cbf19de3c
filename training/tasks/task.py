"""What both stages share: the student, how its images are made, what of it learns."""

from typing import Any

import torch
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.data.transforms import Augment, Normalize
from training.teachers.targets import TargetSource

TEXT_CHUNK = 64  # texts encoded at once


class Task(nn.Module):
    """What both stages share: the student and how its images are made.

    Args:
        student: the model that learns.
        augment: random views.
        normalize: the student's own statistics.
        targets: the teacher's answers; None where there is no teacher. It is no submodule: it never trains.
        learning: prefixes of the student's parameters that learn.
        frozen: prefixes of those among them that do not.

    Raises:
        ValueError: no parameter starts with one of `frozen`.
    """

    chunk_size = 0  # images encoded at once, for tasks that can be split; 0 for the whole batch

    def __init__(
        self,
        student: DCCLIPModel,
        augment: Augment,
        normalize: Normalize,
        targets: TargetSource | None,
        learning: tuple[str, ...],
        frozen: list[str],
    ):
        super().__init__()
        self.student, self.augment, self.normalize, self.targets = student, augment, normalize, targets
        self.learning, self.frozen = learning, tuple(frozen)
        names = [name for name, _ in student.named_parameters()]
        for prefix in frozen:
            if not any(name.startswith(prefix) for name in names):
                raise ValueError(
                    f"freeze: no parameter of the student starts with {prefix!r}. Names look like {names[1]!r}."
                )
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(self.learns(name))

    def learns(self, name: str) -> bool:
        """Whether the student's parameter or layer of this name learns."""
        return name.startswith(self.learning) and not name.startswith(self.frozen)

    def train(self, mode: bool = True) -> "Task":
        """As in torch, but BatchNorm keeps its statistics in layers that do not learn."""
        super().train(mode)
        for name, module in self.student.named_modules():
            if _is_batch_norm(module) and not self.updates_statistics(name):
                module.eval()
        return self

    def updates_statistics(self, name: str) -> bool:
        """Whether the BatchNorm layer of this name follows the batches."""
        return self.learns(name)

    @property
    def follows_batches(self) -> bool:
        """Whether any BatchNorm layer does, so that a batch in parts is not the same as the batch."""
        return any(
            self.updates_statistics(name) for name, module in self.student.named_modules() if _is_batch_norm(module)
        )

    @property
    def num_views(self) -> int:
        """How many views of an image take turns; 0 for ever new ones."""
        return self.targets.num_views if self.targets is not None else 0

    def augmented_images(self, batch: dict[str, Any]) -> Tensor:
        """The augmented images of a batch, (B, 3, S, S) in 0..255."""
        return self.augment(batch["images"], batch["rows"], batch["view_ids"])

    def encode_texts(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Encode the captions, those of like length together: they differ much, and padding costs as much as text.

        Returns:
            Token states (T, L, text_width), zero where a chunk was cut short, and embeddings (T, projection_dim).
        """
        input_ids, mask = batch["input_ids"], batch["attention_mask"]
        lengths = mask.sum(1)
        order = lengths.argsort(stable=True)
        states, embeddings = [], []
        for chosen in order.split(TEXT_CHUNK):
            length = int(lengths[chosen[-1]])
            outputs = self.student.get_text_features(input_ids[chosen, :length], mask[chosen, :length])
            states.append(nn.functional.pad(outputs.last_hidden_state, (0, 0, 0, input_ids.shape[1] - length)))
            embeddings.append(outputs.pooler_output)
        back = order.argsort()
        return torch.cat(states)[back], torch.cat(embeddings)[back]

    def after_step(self):
        """Called after each optimizer step."""


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)

"""Write a model, its processor and its recipe together as a finished Hub repo."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import TrainingRecipe, save_recipe
from training.hub.cards import write_card
from training.hub.contents import DERIVED, complete_folder
from training.hub.self_check import write_self_check
from training.text.tokenizers import reset_call_state


@dataclass(frozen=True)
class HubModel:
    """Everything that makes a folder a finished Hub repo.

    Args:
        student: The trained model.
        processor: The processor of the model.
        recipe: The recipe of the run, saved beside the weights.
    """

    student: DCCLIPModel
    processor: DCCLIPProcessor
    recipe: TrainingRecipe

    @property
    def derived(self) -> tuple[str, ...]:
        """Names of files and folders that other commands make of the weights: exports and results."""
        return DERIVED

    def save(self, folder: Path):
        """Write weights, config, remote code, processor, tokenizer, recipe, card, licences and self-check.

        The self-check holds the model's embeddings of a fixed image and fixed texts.
        """
        self.student.save_pretrained(folder)
        reset_call_state(self.processor.tokenizer)
        self.processor.save_pretrained(folder)
        save_recipe(self.recipe, folder)
        complete_folder(folder)
        write_self_check(self.student, self.processor, folder)
        write_card(folder)

    def with_weights(self, weights: dict[str, Tensor] | None) -> "HubModel":
        """A `HubModel` with a copy of the student that has other weights.

        Args:
            weights: Weights of the copy, keyed by the student's parameter names. None returns this object itself.

        Returns:
            The same processor and recipe with the copied student, in eval mode.
        """
        if weights is None:
            return self
        student = type(self.student)(self.student.config)
        student.load_state_dict(weights)
        # transformers wraps `to` in a decorator that hides its signature
        student.to(self.student.device)  # type: ignore[arg-type]
        return replace(self, student=student.eval())

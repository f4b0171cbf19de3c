"""Write a model, its processor and its recipe together as a finished Hub repo."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor
from torch.distributed import get_world_size, is_initialized
from transformers import CONFIG_NAME

from modeling_dcclip import DCCLIPConfig, DCCLIPModel, DCCLIPProcessor
from training.config import RECIPE_FILE, TrainingRecipe, save_recipe
from training.hub.cards import write_card
from training.hub.cards.card import EARLIER_RECIPES
from training.hub.contents import DERIVED, EARLIER_FILES, complete_folder
from training.hub.self_check import write_self_check
from training.text.tokenizers import reset_call_state


@dataclass(frozen=True)
class HubModel:
    """Everything that makes a folder a finished Hub repo.

    Args:
        student: The trained model.
        processor: The processor of the model.
        recipe: The recipe of the run, saved beside the weights.
        earlier: Texts of the recipes of earlier runs that the weights come from, in their order, as
            `earlier_recipes` returns them.
        num_steps: Number of steps that the run has done. Default: all of the recipe.
    """

    student: DCCLIPModel
    processor: DCCLIPProcessor
    recipe: TrainingRecipe
    earlier: tuple[str, ...] = ()
    num_steps: int | None = None

    @property
    def derived(self) -> tuple[str, ...]:
        """Names of files and folders that belong to these weights alone: exports, results, recipes of earlier runs."""
        return (*DERIVED, *EARLIER_FILES)

    def save(self, folder: Path):
        """Write weights, config, remote code, processor, tokenizer, recipe, card, licences and self-check.

        The self-check holds the model's embeddings of a fixed image and fixed texts.
        """
        self.student.save_pretrained(folder)
        reset_call_state(self.processor.tokenizer)
        self.processor.save_pretrained(folder)
        save_recipe(self.recipe, folder, get_world_size() if is_initialized() else 1, self.num_steps)
        for name, text in zip(EARLIER_FILES, self.earlier, strict=False):
            (folder / name).write_text(text, encoding="utf-8")
        complete_folder(folder)
        write_self_check(self.student, self.processor, folder)
        write_card(folder)

    def at_step(self, step: int) -> "HubModel":
        """This model after a number of steps, which its recipe and card state."""
        return replace(self, num_steps=step)

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


def earlier_recipes(starts: Iterable[str | None]) -> tuple[str, ...]:
    """Recipes of the runs that the weights of a new run come from, so that its card names all data.

    Args:
        starts: Models that the run starts from. Only the folder of a finished model has recipes.

    Returns:
        Texts of the recipes, the earliest first, each once.
    """
    folders = [Path(start) for start in starts if start is not None and _is_finished(Path(start))]
    paths = [path for folder in folders for path in (*sorted(folder.glob(EARLIER_RECIPES)), folder / RECIPE_FILE)]
    return tuple(dict.fromkeys(path.read_text(encoding="utf-8") for path in paths))[-len(EARLIER_FILES) :]


def _is_finished(folder: Path) -> bool:
    """Whether a folder is a finished model of ours; other tools write a `recipe.yaml` of another kind."""
    if not (folder / RECIPE_FILE).is_file() or not (folder / CONFIG_NAME).is_file():
        return False
    return json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8")).get("model_type") == DCCLIPConfig.model_type

"""The training section of a card: stages, data and initial weights of the recipes."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from training.config import AlignRecipe, DistillRecipe, TrainingRecipe
from training.hub.cards.metadata import is_hub_id

DEFAULTS = {entry.name: entry.default for entry in fields(TrainingRecipe)}
DISTILL_ONLY = {entry.name for entry in fields(DistillRecipe)} - {entry.name for entry in fields(AlignRecipe)}
ALIGN_ONLY = {entry.name for entry in fields(AlignRecipe)} - {entry.name for entry in fields(DistillRecipe)}
DISTILL, ALIGN = "feature-map distillation", "contrastive alignment"


@dataclass(frozen=True)
class TrainingRun:
    """One recipe on a card.

    Args:
        name: Name of the recipe, as shown on the card.
        recipe: Contents of the recipe file, as `read_recipe` returns them.
        steps: Number of steps of a run that stopped early; None for all steps of the recipe.
    """

    name: str
    recipe: dict[str, Any]
    steps: int | None = None

    @property
    def stage(self) -> str | None:
        """Name of the training stage; None if the recipe has no field that belongs to one stage alone."""
        if ALIGN_ONLY & self.recipe.keys():
            return ALIGN
        if not DISTILL_ONLY & self.recipe.keys():
            return None
        target = self.recipe.get("target", "feature_map")
        return DISTILL if target == "feature_map" else f"distillation of {target.replace('_', ' ')}"

    @property
    def description(self) -> str:
        """Stage, towers, steps, batch size over all processes and accumulated batches, and learning rate."""
        steps, batch_size, rate = (self._value(name) for name in ("max_steps", "batch_size", "learning_rate"))
        factors = {"processes": self.recipe.get("num_processes", 1), "batches": self._value("accumulate_steps")}
        factors = {name: number for name, number in factors.items() if number > 1}
        parts = " x ".join(f"{number} {name}" for name, number in factors.items())
        of_each = f" ({parts} of {batch_size:,})" if factors else ""
        tower = {"vision": ", image tower", "text": ", text tower"}.get(self.recipe.get("tower", ""), "")
        stage = f"{self.stage}{tower}; " if self.stage else ""
        done, cause = self.steps, "stopped early after "
        if done is None:  # of a checkpoint, or of the best student
            done, cause = self.recipe.get("num_steps"), ""
        part = f"{cause}{done:,} of " if done is not None and done < steps else ""
        total = batch_size * math.prod(factors.values())
        classifier = self.recipe.get("classifier")
        kept = f", with the classes of `{without_folder(classifier)}`" if classifier else ""
        return f"{stage}{part}{steps:,} steps, batch size {total:,}{of_each}, peak learning rate {rate}{kept}"

    @property
    def compares_embeddings(self) -> bool:
        """Whether a loss of stage 1 compared embeddings with the teacher's, and not feature maps alone."""
        return self.recipe.get("target") == "logits" or bool(self.recipe.get("embedding_weight", 1))

    @property
    def sources(self) -> list[str]:
        """Training data: one source, its shards, or all sources of a mixture."""
        data = self.recipe["data"]
        sources = [data.get("train"), *(source["train"] for source in data.get("sources") or [])]
        return [name for source in sources if source for name in (source if isinstance(source, list) else [source])]

    @property
    def initial_weights(self) -> list[str]:
        """Hub ids of the pretrained towers that a new student starts from."""
        student = self.recipe.get("student") or self.recipe.get("new_student")
        if not isinstance(student, dict):
            return []
        return [name for name in (student.get("vision_init"), student.get("text_init")) if name and is_hub_id(name)]

    def _value(self, name: str) -> Any:
        return self.recipe.get(name, DEFAULTS[name])


def unique_sources(runs: list[TrainingRun]) -> list[str]:
    """Training data of all runs, each once."""
    return list(dict.fromkeys(source for run in runs for source in run.sources))


def unique_stages(runs: list[TrainingRun]) -> list[str]:
    """Stages of all runs in order, each once."""
    return list(dict.fromkeys(run.stage for run in runs if run.stage))


def teacher_space(runs: list[TrainingRun]) -> str:
    """Whether the embeddings of a model that has a teacher can be compared with those of the teacher.

    Args:
        runs: Training runs of the model, the last one last.
    """
    matched = "trained to match the teacher's embeddings"
    last, distilled = runs[-1].recipe if runs else {}, [run for run in runs if run.stage != ALIGN]
    if last.get("anchor_weight"):
        return matched
    towers = {run.recipe.get("tower", "both") for run in distilled if run.compares_embeddings}
    if last.get("new_student") or (distilled and not towers):
        return "not comparable with the teacher's"
    if towers in ({"vision"}, {"text"}):
        matched = f"those of {'images' if 'vision' in towers else 'texts'} alone {matched}"
    if not runs or runs[-1].stage != ALIGN:
        return matched
    return f"{matched} before the alignment, which had no anchor to them"


def without_folder(name: str) -> str:
    """The name; of an absolute path, its last part, since the folder exists on one machine only."""
    return Path(name).name if Path(name).is_absolute() else name

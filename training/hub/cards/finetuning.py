"""What a card says about a fine-tuned model. Every sentence follows from its config, its recipe or its results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.hub.cards.facts import ModelFacts
from training.hub.cards.training_runs import TrainingRun
from training.text.writing_systems import LANGUAGE_NAMES
from training.utils.results import Results

KIND = {"images": "images", "texts": "captions"}  # of the measured cosines
GENERAL = {  # what a weight of the recipe holds to the starting model beyond the data
    "general_weight": "class names that come with DC-CLIP",
    "photo_weight": "crops of free photographs from scikit-image, scikit-learn and matplotlib",
}
PHOTOS = "other images, without captions"


@dataclass(frozen=True)
class Finetuning:
    """Origin of a fine-tuned model.

    Args:
        base_model: Name of the model that it started from.
        license: Licence of that model's weights; None if it names none.
        languages: Names of the languages of the captions.
        is_anchored: Whether a loss held the embeddings close to those of the base model.
        general: Kinds of texts and images beyond the data on which losses held it to the base model.
        data: Data of the run, as the user named them, or the file of the training split.
        weight: Weight of the end of training in the interpolation, 0..1; None if the run has not chosen one.
        kept: Sets that the choice of this point kept the accuracy on.
        cosines: Mean cosine between the embeddings of both models on the validation split, by kind; empty if it was
            not measured.
    """

    base_model: str
    license: str | None
    languages: list[str]
    is_anchored: bool
    general: list[str]
    data: str
    weight: float | None
    kept: list[str]
    cosines: dict[str, float]

    @classmethod
    def of(cls, facts: ModelFacts, runs: Sequence[TrainingRun], results: Results | None) -> "Finetuning | None":
        """Collect what is known about a model; None if it was not fine-tuned from a finished model.

        Args:
            facts: Facts about the model.
            runs: Training runs of the model, the fine-tuning last.
            results: Results of the model; None if it was not evaluated.
        """
        if facts.base_model is None or not runs:
            return None
        recipe, measured = runs[-1].recipe, (results.meta.get("finetune", {}) if results else {})
        return cls(
            base_model=facts.base_model,
            license=facts.base_model_license,
            languages=[LANGUAGE_NAMES.get(language, language) for language in recipe["data"]["caption_columns"]],
            is_anchored=bool(recipe.get("anchor_weight")),
            general=_general_kinds(recipe),
            data=measured.get("data", runs[-1].sources[0]),
            weight=measured.get("weight"),
            kept=list(curve[0]["general"]) if (curve := measured.get("curve")) else [],
            cosines=measured.get("cosine_to_start", {}),
        )

    @property
    def summary(self) -> str:
        """One sentence about the origin of the model, and one about what held it to its start beyond the data."""
        license = f"licence `{self.license}`" if self.license else "no licence stated"
        languages = " and ".join(self.languages)
        text = (
            f"Fine-tuned with DC-CLIP from `{self.base_model}` ({license}) on images with {languages} captions: "
            f"contrastive alignment, {'with' if self.is_anchored else 'without'} an anchor to the embeddings of that "
            "model."
        )
        return f"{text} It was also held to that model on {' and '.join(self.general)}." if self.general else text

    @property
    def space(self) -> str:
        """Whether the embeddings can be compared with those of the base model."""
        text = (
            f"held close to those of `{self.base_model}`"
            if self.is_anchored
            else f"not comparable with those of `{self.base_model}`"
        )
        cosines = [f"{value:.3f} for {KIND[kind]}" for kind, value in self.cosines.items()]
        return f"{text} (mean cosine {', '.join(cosines)} of the validation split)" if cosines else text

    @property
    def measured(self) -> str:
        """The sets of the accuracy table, in words."""
        images = ["a validation split of `--general_data`"] if "general images" in self.kept else []
        texts = "general texts, which are class names in two forms"
        return ", on ".join(["a validation split of the data", *images]) + f" and on {texts}"

    @property
    def interpolation(self) -> str | None:
        """One sentence about the interpolation; None if the run has not chosen a point."""
        if self.weight is None:
            return None
        if not self.weight:
            return (
                f"The weights equal those of `{self.base_model}`: no point between them and the end of training was "
                f"better on the validation split and kept the accuracy on {' and '.join(self.kept)}."
            )
        return (
            f"The weights are those of `{self.base_model}` plus {self.weight:.1f} of their change in training "
            "(WiSE-FT, [arXiv 2109.01903](https://arxiv.org/abs/2109.01903)). This point was chosen on the validation "
            f"split, on condition that the accuracy on {' and '.join(self.kept)} falls by at most 1 point."
        )


def _general_kinds(recipe: Mapping[str, Any]) -> list[str]:
    """Kinds of texts and images, beyond the data, on which a recipe holds a model to its start."""
    kinds = GENERAL | ({"photo_weight": PHOTOS} if recipe.get("photos") else {})
    return [kind for weight, kind in kinds.items() if recipe.get("teacher") and recipe.get(weight)]

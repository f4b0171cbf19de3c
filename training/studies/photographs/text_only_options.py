"""Options of the study of text-only alignment. Nothing here imports torch, so that `--help` answers at once."""

from dataclasses import dataclass, field

from training.config import CONFIGS

RECIPES = CONFIGS / "photographs" / "text_only"


@dataclass(frozen=True, kw_only=True)
class TextOnlyOptions:
    """What to train, and where to measure.

    Args:
        train: Photographs with captions: a source with the columns `image`, `en` and `zh`.
        validation: Photographs with captions to measure retrieval on.
        labelled: Photographs with the columns `image`, `label`, `en` and `zh`, to measure zero-shot classification.
        distill: Recipe of the text tower. Its teacher is the model whose image tower is kept; its sources are the
            parallel sentences.
        align: Recipe of the alignment on pairs.
        distill_steps: Steps with the teacher's embeddings.
        align_steps: Steps with pairs.
        batch_size: Captions of a language in a batch.
        num_labelled: Largest number of labelled photographs, evenly spaced.
        seeds: Seeds of the training.
        output_dir: Folder for results.json, the plot and the runs. Runs whose results are there already are not
            repeated.
    """

    train: str
    validation: str
    labelled: str
    distill: str = str(RECIPES / "distill_text.yaml")
    align: str = str(RECIPES / "align.yaml")
    distill_steps: int = 500
    align_steps: int = 150
    batch_size: int = 64
    num_labelled: int = 1000
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    output_dir: str = "runs/photographs/text_only"

    def __post_init__(self):
        for name in ("distill_steps", "align_steps", "num_labelled"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}.")
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size: is {self.batch_size}, but the pairs of a batch are compared. Set at least 2."
            )
        if not self.seeds:
            raise ValueError("seeds: none is given. Name at least one.")

"""What the claims and text-only alignment share: pretrained towers, and short runs."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from training.config import TrainingRecipe
from training.demo.photo_teacher import assemble
from training.text.writing_systems import LANGUAGES

AnyRecipe = TypeVar("AnyRecipe", bound=TrainingRecipe)
COLUMNS = {language: language for language in LANGUAGES}


def pretrained_towers(folder: Path) -> str:
    """Folder of the teacher's towers before its training, so that a student knows nothing of the teacher.

    Args:
        folder: Folder of the study; the towers are written into it once.
    """
    towers = folder / "pretrained"
    if not (towers / "config.json").exists():
        assemble.run(assemble.AssembleOptions(output_dir=str(towers), trained=None))
    return str(towers)


def short_run(recipe: AnyRecipe, folder: Path, steps: int, batch_size: int, seed: int) -> AnyRecipe:
    """A recipe as one run of a study, which keeps no checkpoints.

    Args:
        recipe: Recipe of either stage.
        folder: Output folder.
        steps: Number of steps; a tenth of them warms up.
        batch_size: Images, or captions of a language, in a batch.
        seed: Seed of the run.
    """
    return replace(
        recipe,
        output_dir=str(folder),
        max_steps=steps,
        batch_size=batch_size,
        warmup_steps=max(1, steps // 10),
        save_every=0,
        seed=seed,
    )

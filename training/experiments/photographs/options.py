"""Options of the command, without torch and transformers, so that `--help` is fast."""

from dataclasses import dataclass

from training.utils.ranges import Count, Seed

PROGRAM = "python -m training.experiments.photographs"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train on, and where to write.

    Args:
        photos: Folder with the data files that the recipes under training/configs/photographs name, and validation
            files NAME_validation.parquet. Training files that are missing are reported and left out.
        output_dir: Folder of the finished models, the results and all intermediate models.
        seed: Seed of the training.
        max_steps: Number of steps of each run, instead of the recipes' own. For a quick trial.
    """

    photos: str
    output_dir: str = "runs/photographs"
    seed: Seed = 0
    max_steps: Count | None = None

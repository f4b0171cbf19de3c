"""The rounds of training of the model of photographs: the mean of their weights, their recipes and logs."""

from pathlib import Path
from typing import TYPE_CHECKING

from training.config import RECIPE_FILE
from training.demo.photo_model.options import PhotoModelOptions

if TYPE_CHECKING:
    from modeling_dcclip import DCCLIPModel

STAGE_FOLDERS = {"distill_vision": "vision", "distill_text": "distilled"}  # before alignment, by recipe
LAST_STAGE = "aligned"
ROUND_FOLDERS = STAGE_FOLDERS | {"align": LAST_STAGE}


def base_folder(options: PhotoModelOptions) -> Path:
    """Folder of the model that the later rounds started from: a finished one, or the output of stage 2.

    Args:
        options: Folders of the runs.
    """
    return Path(options.start) if options.start is not None else Path(str(options.runs)) / LAST_STAGE


def last_folder(options: PhotoModelOptions) -> Path:
    """Folder of the last round, whose tokenizer and image size the model has.

    Args:
        options: Folders of the runs.
    """
    return [base_folder(options), *read_rounds("later", options.later).values()][-1]


def mix_rounds(options: PhotoModelOptions) -> "DCCLIPModel":
    """Mix the weights of stage 1, of stage 2 and of later rounds.

    Args:
        options: Folders of the runs, and their weights.

    Raises:
        ValueError: A later round has other towers than the model before it, and a weight below 1.
    """
    from modeling_dcclip import DCCLIPModel
    from training.finetuning.interpolate import interpolate

    student = DCCLIPModel.from_pretrained(base_folder(options))
    if options.runs is not None:
        stage_1 = DCCLIPModel.from_pretrained(Path(options.runs) / STAGE_FOLDERS["distill_text"]).state_dict()
        student.load_state_dict(interpolate(stage_1, student.state_dict(), options.stage_2_weight))
    later = read_rounds("later", options.later)
    for (name, folder), weight in zip(later.items(), options.later_weights, strict=True):
        before, student = student.state_dict(), DCCLIPModel.from_pretrained(folder)
        if weight == 1:
            continue
        after = student.state_dict()
        if {key: value.shape for key, value in before.items()} != {key: value.shape for key, value in after.items()}:
            raise ValueError(
                f"later_weights: {weight} is given for {name!r}, whose towers have other shapes than those of the "
                "model before. Set its weight to 1."
            )
        student.load_state_dict(interpolate(before, after, weight))
    return student


def find_history(options: PhotoModelOptions) -> dict[str, Path]:
    """Find the recipe and the log of the base model, and those of all rounds before and after it.

    Args:
        options: Folders of the runs.

    Returns:
        Path of each by its name in the model's folder.

    Raises:
        ValueError: One of them is missing.
    """
    from training.engine.log import LOG_FILE

    base = base_folder(options)
    history = {LOG_FILE: base / LOG_FILE, RECIPE_FILE: base / RECIPE_FILE}
    if options.start is not None:
        history |= {path.name: path for pattern in ("log_*.jsonl", "recipe_*.yaml") for path in base.glob(pattern)}
    stages = {}
    if options.runs is not None:
        stages = {stage: Path(options.runs) / name for stage, name in STAGE_FOLDERS.items()}
    for name, folder in read_rounds("later", options.later).items():
        stages[f"{name}_{_stage_of(folder)}"] = folder
    for name, folder in read_rounds("earlier", options.earlier).items():
        stages |= {f"{name}_{stage}": folder / each for stage, each in ROUND_FOLDERS.items()}
    for stage, folder in stages.items():
        history |= {f"log_{stage}.jsonl": folder / LOG_FILE, f"recipe_{stage}.yaml": folder / RECIPE_FILE}
    for path in history.values():
        _require(path)
    return history


def read_rounds(option: str, entries: list[str]) -> dict[str, Path]:
    """Read the names and folders of rounds.

    Args:
        option: Name of the option, for the error message.
        entries: Each NAME=FOLDER.

    Raises:
        ValueError: An entry has another form, or repeats a name.
    """
    rounds = {}
    for entry in entries:
        name, _, folder = entry.partition("=")
        if not name.isidentifier() or not folder:
            raise ValueError(f"{option}: {entry!r} is not NAME=FOLDER. Write for example first=runs/first.")
        if name in rounds:
            raise ValueError(f"{option}: {name!r} is given twice, but names the files of one round. Rename one.")
        rounds[name] = Path(folder)
    return rounds


def _stage_of(folder: Path) -> str:
    """Whether a run was of stage 1, `distill`, or of stage 2, `align`, by its recipe."""
    from training.config.files import read_recipe
    from training.hub.cards.training_runs import ALIGN, TrainingRun

    _require(folder / RECIPE_FILE)
    stage = TrainingRun(folder.name, read_recipe(folder / RECIPE_FILE)).stage
    return "align" if stage == ALIGN else "distill"


def _require(path: Path):
    if not path.exists():
        raise ValueError(f"runs: there is no {path}. Run the recipes of training/configs/photographs first.")

r"""Write the Hub folder of the model of photographs from the runs of training/configs/photographs.

    python -m training.demo.photo_model --runs runs/photographs --output_dir runs/photographs/model
    python training/eval.py --model runs/photographs/model --output_dir runs/photographs/measured/aligned ...
    python -m training.demo.photo_model --runs runs/photographs --output_dir model_cards/dcclip-tiny-photo \
        --results aligned=runs/photographs/measured/aligned teacher=runs/photographs/measured/teacher \
        --report_dir model_cards/results/photographs

The weights are stored in half precision. So the folder is written first, measured, and written again with its results.
`--stage_2_weight` mixes stage 1 into stage 2 (WiSE-FT, arXiv 2109.01903), which the first round needed: there, stage 2
raised retrieval and cost accuracy on names that it had not seen. `--later third=FOLDER` does the same with a
distillation that started from the finished model, for any number of rounds. `--earlier first=FOLDER` keeps the recipes
and logs of the rounds that the towers started from. Install the extra `photos` first: `pip install -e ".[photos]"`.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from training.config import RECIPE_FILE, AlignRecipe, recipe_from_args
from training.utils.cli import command_name, command_of, parse_options, user_errors
from training.utils.quiet import hide_library_bars

if TYPE_CHECKING:
    from modeling_dcclip import DCCLIPModel
    from training.corpus.free_photos import FreePhoto

PROGRAM = "python -m training.demo.photo_model"
CARD = Path(__file__).with_name("card.yaml")
STAGE_FOLDERS = {"distill_vision": "vision", "distill_text": "distilled"}  # before alignment, by recipe
LAST_STAGE = "aligned"
ROUND_FOLDERS = STAGE_FOLDERS | {"align": LAST_STAGE}
SHEET_FILE, EXAMPLE_FILE = "contact_sheet.png", "example.jpg"
EXAMPLE_SIZE = 320  # pixels of the longer side


@dataclass(frozen=True, kw_only=True)
class PhotoModelOptions:
    """Options of the command.

    Args:
        runs: Folder with the outputs of both stages: `vision`, `distilled` and `aligned`.
        earlier: Earlier rounds of both stages, each NAME=FOLDER, the first one first. Their recipes and logs are kept
            under their names.
        output_dir: Folder for the model, a complete Hub repository.
        results: Results of `training/eval.py`, each ROLE=FOLDER. ROLE may be given several times. It is `teacher`,
            `distilled` (stage 1), `aligned` (the finished model), `no_teacher`, or `baselines` (of
            `python -m training.studies.photographs`).
        keep_results: Whether the results of roles that are not given are kept from the report in `report_dir`.
        report_dir: Folder for all results and the contact sheet; the model's own folder has those of its card. If none
            is given, they are not written.
        stage_2_weight: Weight of stage 2 in the mean with stage 1, 0..1. With 1, stage 2 stays unchanged.
        later: Rounds of distillation alone, each NAME=FOLDER, the first one first. Each started from the model of the
            round before. Its weights are mixed into that model's, and its recipe and log are kept under its name.
        later_weights: Weight of each of them in that mean, 0..1.
        rotate_by: Images with captions, such as those of training. The model's space is rotated to the principal axes
            of their embeddings, so that the leading dimensions can be used alone. None rotates nothing.
        overwrite: Whether to replace a model in `output_dir`.
    """

    runs: str
    output_dir: str
    earlier: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    report_dir: str | None = None
    keep_results: bool = False
    stage_2_weight: float = 1.0
    later: list[str] = field(default_factory=list)
    later_weights: list[float] = field(default_factory=list)
    rotate_by: str | None = None
    overwrite: bool = False

    def __post_init__(self):
        for name, weights in (("stage_2_weight", [self.stage_2_weight]), ("later_weights", self.later_weights)):
            for weight in weights:
                if not 0 <= weight <= 1:
                    raise ValueError(f"{name}: must be 0 to 1, got {weight}.")
        if len(self.later) != len(self.later_weights):
            raise ValueError(
                f"later_weights: {len(self.later_weights)} are given for {len(self.later)} rounds in later. Give one "
                "for each."
            )
        if self.keep_results and (self.report_dir is None or not self.results):
            raise ValueError("keep_results: needs --report_dir with an earlier report, and --results. Add them.")


def run(options: PhotoModelOptions):
    """Write the folder.

    Args:
        options: Where to read and write.

    Raises:
        ValueError: A run, a package or a results file is missing, or a file would be replaced.
    """
    from modeling_dcclip import DCCLIPProcessor
    from training.corpus.free_photos import FREE_PHOTOS
    from training.demo.photo_model.results import for_card, read_results
    from training.demo.photo_model.sheet import plot_contact_sheet
    from training.demo.photo_model.weights import rotate_to_axes, round_to_half, store_in_half
    from training.evaluation.models.zero_shot_model import ZeroShotModel
    from training.finetuning.spelling import unify_spelling
    from training.hub import MODEL_FILES
    from training.hub.cards import CARD_FILE, CardDetails, write_card
    from training.hub.cards.example import classify_example
    from training.hub.hub_model import HubModel
    from training.utils.files import write_text
    from training.utils.output import claim_folder
    from training.utils.results import RESULTS_FILE

    runs, folder = Path(options.runs), Path(options.output_dir)
    kept = options.report_dir if options.keep_results else None
    results = read_results(options.results, command_of(PROGRAM, options), kept)
    history = find_history(options)
    names = [*MODEL_FILES, *history, CARD_FILE, RESULTS_FILE, SHEET_FILE, EXAMPLE_FILE]
    inputs = {"runs": runs}
    with claim_folder(folder, names, command=command_name(PROGRAM), inputs=inputs, overwrite=options.overwrite):
        student = mix_rounds(options)
        processor = DCCLIPProcessor.from_pretrained(runs / LAST_STAGE)
        if options.rotate_by is not None:
            rotate_to_axes(student.eval(), processor, options.rotate_by)
        round_to_half(student)
        recipe = recipe_from_args(AlignRecipe, ["--config", str(runs / LAST_STAGE / RECIPE_FILE)])
        HubModel(student.eval(), processor, recipe).save(folder)
        store_in_half(folder / "model.safetensors")
        unify_spelling(folder, student, processor)
        for name, path in history.items():
            write_text(folder / name, path.read_text(encoding="utf-8"))
        write_text(folder / CARD_FILE, CARD.read_text(encoding="utf-8"))
        details = CardDetails.read(folder / CARD_FILE)
        save_example(FREE_PHOTOS[0], folder / EXAMPLE_FILE)
        plot_contact_sheet(ZeroShotModel.from_pretrained(folder), folder / SHEET_FILE)
        if results is None:
            write_card(folder, None, details)
            return
        results.meta["example"] = classify_example(folder, EXAMPLE_FILE, details.labels)
        if options.report_dir is not None:
            results.write(options.report_dir)
            shutil.copyfile(folder / SHEET_FILE, Path(options.report_dir) / SHEET_FILE)
        shown = for_card(results)
        shown.write(folder)
        write_card(folder, shown, details)


def mix_rounds(options: PhotoModelOptions) -> "DCCLIPModel":
    """Mix the weights of stage 1, of stage 2 and of later distillations.

    Args:
        options: Folders of the runs, and their weights.
    """
    from modeling_dcclip import DCCLIPModel
    from training.finetuning.interpolate import interpolate

    runs = Path(options.runs)
    student = DCCLIPModel.from_pretrained(runs / LAST_STAGE)
    stage_1 = DCCLIPModel.from_pretrained(runs / STAGE_FOLDERS["distill_text"]).state_dict()
    student.load_state_dict(interpolate(stage_1, student.state_dict(), options.stage_2_weight))
    later = read_rounds("later", options.later).values()
    for folder, weight in zip(later, options.later_weights, strict=True):
        distilled = DCCLIPModel.from_pretrained(folder).state_dict()
        student.load_state_dict(interpolate(student.state_dict(), distilled, weight))
    return student


def find_history(options: PhotoModelOptions) -> dict[str, Path]:
    """Find the log of stage 2, and the logs and recipes of the stages before it.

    Args:
        options: Folders of the runs.

    Returns:
        Path of each by its name in the model's folder.

    Raises:
        ValueError: One of them is missing.
    """
    from training.engine.log import LOG_FILE

    runs = Path(options.runs)
    stages = {stage: runs / name for stage, name in STAGE_FOLDERS.items()}
    stages |= {f"{name}_distill": folder for name, folder in read_rounds("later", options.later).items()}
    for name, folder in read_rounds("earlier", options.earlier).items():
        stages |= {f"{name}_{stage}": folder / each for stage, each in ROUND_FOLDERS.items()}
    history = {LOG_FILE: runs / LAST_STAGE / LOG_FILE}
    for stage, folder in stages.items():
        history |= {f"log_{stage}.jsonl": folder / LOG_FILE, f"recipe_{stage}.yaml": folder / RECIPE_FILE}
    for path in history.values():
        if not path.exists():
            raise ValueError(f"runs: there is no {path}. Run the recipes of training/configs/photographs first.")
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


def save_example(photo: "FreePhoto", path: Path):
    """Save a photograph as a small JPEG.

    Args:
        photo: Photograph with a free licence.
        path: JPEG file to write.
    """
    from training.utils.files import atomic_write

    image = photo.open()
    image.thumbnail((EXAMPLE_SIZE, EXAMPLE_SIZE))
    with atomic_write(path) as scratch:
        image.save(scratch, "JPEG", quality=90)


def main(argv: list[str] | None = None):
    """Parse the options and write the folder."""
    options = parse_options(PhotoModelOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors(command_name(PROGRAM), extra="photos"):
        hide_library_bars()
        run(options)


if __name__ == "__main__":
    main()

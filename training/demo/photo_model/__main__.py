r"""Write the Hub folder of the model of photographs from the runs of training/configs/photographs.

    python -m training.demo.photo_model --runs runs/photographs --output_dir runs/photographs/model
    python training/eval.py --model runs/photographs/model --output_dir runs/photographs/measured/aligned ...
    python -m training.demo.photo_model --runs runs/photographs --output_dir model_cards/dcclip-tiny-photo \
        --results aligned=runs/photographs/measured/aligned teacher=runs/photographs/measured/teacher \
        --report_dir model_cards/results/photographs

The weights are stored in half precision. So the folder is written first, measured, and written again with its results.
`--stage_2_weight` mixes stage 1 into stage 2 (WiSE-FT, arXiv 2109.01903), which the first round needed: there, stage 2
raised retrieval and cost accuracy on names that it had not seen. `--later third=FOLDER` does the same with a run of
either stage that started from the finished model, for any number of rounds. `--earlier first=FOLDER` keeps the recipes
and logs of the rounds that the towers started from. `--start FOLDER` adds later rounds to a finished model, and needs
no `--runs`. Install the extra `photos` first: `pip install -e ".[photos]"`.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from training.config import RECIPE_FILE, AlignRecipe, recipe_from_args
from training.demo.photo_model.options import PhotoModelOptions
from training.demo.photo_model.rounds import base_folder, find_history, last_folder, mix_rounds
from training.utils.cli import command_name, command_of, parse_options, user_errors
from training.utils.quiet import hide_library_bars

if TYPE_CHECKING:
    from training.corpus.free_photos import FreePhoto

PROGRAM = "python -m training.demo.photo_model"
CARD = Path(__file__).with_name("card.yaml")
SHEET_FILE, EXAMPLE_FILE = "contact_sheet.png", "example.jpg"
EXAMPLE_SIZE = 320  # pixels of the longer side


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
    from training.demo.photo_model.weights import cut_to, rotate_to_axes, round_to_half, store_in_half
    from training.evaluation.models.zero_shot_model import ZeroShotModel
    from training.finetuning.spelling import unify_spelling
    from training.hub import MODEL_FILES
    from training.hub.cards import CARD_FILE, CardDetails, write_card
    from training.hub.cards.example import classify_example
    from training.hub.hub_model import HubModel
    from training.text.vocabulary import Vocabulary
    from training.utils.files import write_text
    from training.utils.output import claim_folder
    from training.utils.results import RESULTS_FILE

    base, folder = base_folder(options), Path(options.output_dir)
    kept = options.report_dir if options.keep_results else None
    results = read_results(options.results, command_of(PROGRAM, options), kept)
    history = find_history(options)
    names = [*MODEL_FILES, *history, CARD_FILE, RESULTS_FILE, SHEET_FILE, EXAMPLE_FILE]
    inputs = {"runs": options.runs, "start": options.start, "vocabulary": options.vocabulary}
    with claim_folder(folder, names, command=command_name(PROGRAM), inputs=inputs, overwrite=options.overwrite):
        student = mix_rounds(options)
        processor = DCCLIPProcessor.from_pretrained(last_folder(options))
        if options.vocabulary is not None:
            cut_to(student, processor, Vocabulary.load(options.vocabulary))
        if options.rotate_by is not None:
            rotate_to_axes(student.eval(), processor, options.rotate_by)
        round_to_half(student)
        recipe = recipe_from_args(AlignRecipe, ["--config", str(base / RECIPE_FILE)])
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

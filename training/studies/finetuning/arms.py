"""The ways to fine-tune that are compared. All train on the same images for as many steps."""

from dataclasses import replace
from pathlib import Path

from training import finetune
from training.finetuning.options import FinetuneOptions
from training.finetuning.plan import make_recipe
from training.finetuning.prepare import DATA_FOLDER, prepare
from training.hub.hub_model import HubModel
from training.students import load_student

# with the rate of the command, two seeds of `plain` were behind on the test split and on photographs
PLAIN_LEARNING_RATE = 3e-4


def train(arm: str, options: FinetuneOptions) -> Path:
    """Fine-tune a model.

    Args:
        arm: `default` is the command as users run it, `no_photos` without its anchor on photographs, and any arm that
            is not named here with `general_data`. `plain` trains everything, without anchors, early stopping and
            interpolation. `lora` does so with low-rank adapters.
        options: Options of the command.

    Returns:
        Folder of the finished model.
    """
    output_dir = Path(options.output_dir)
    if arm not in ("plain", "lora"):
        finetune.run(replace(options, photo_weight=0.0) if arm == "no_photos" else options)
        return output_dir
    options = replace(
        options, learning_rate=PLAIN_LEARNING_RATE, anchor_weight=0.0, general_weight=0.0, photo_weight=0.0
    )
    start, _ = load_student(options.model, "model")
    recipe = make_recipe(options, prepare(options, output_dir / DATA_FOLDER), None, start)
    recipe = replace(recipe, freeze=[], save_every=0)
    if arm == "plain":
        finetune.train(recipe, None, finetune.open_student, HubModel)
    else:
        from training.studies.finetuning import adapters  # peft is no dependency of the other arms

        recipe = adapters.adapter_recipe(recipe, start)
        finetune.train(recipe, None, adapters.open_student, adapters.MergedModel)
    return Path(recipe.output_dir)

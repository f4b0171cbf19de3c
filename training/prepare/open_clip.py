r"""Convert an open_clip checkpoint to a folder that can be a teacher and can be evaluated.

Example:
  python -m training.prepare.open_clip --model laion/CLIP-ViT-H-14-frozen-xlm-roberta-large-laion5B-s13B-b90k \
      --output_dir runs/teachers/xlmr_h14
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from string import punctuation
from typing import TYPE_CHECKING, Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError

from training.utils.cli import hide_library_bars, parse_options, user_errors
from training.utils.reading import read_mapping

if TYPE_CHECKING:
    from torch import nn
    from transformers import CLIPImageProcessor, PreTrainedTokenizerBase

    from training.teachers.open_clip_model import OpenClipModel

PROGRAM = "python -m training.prepare.open_clip"
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "open_clip_config.json", "README.md"
FILES = ("config.json", WEIGHTS_FILE, CARD_FILE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
         "preprocessor_config.json", "processor_config.json")  # fmt: skip
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers
TOLERANCE = 1e-4  # of L2-normalized embeddings
TEXTS = ["a red apple", "Two dogs play in the snow.", "一只青蛙坐在叶子上"]


@dataclass(frozen=True, kw_only=True)
class OpenClipOptions:
    """Options of the conversion.

    Args:
        model: Folder with `open_clip_config.json` and weights, or Hub id of such a repository.
        output_dir: Folder for the converted model.
        overwrite: Replace files in `output_dir` that this command has not written.
    """

    model: str
    output_dir: str
    overwrite: bool = False


def convert(model: str, output_dir: str | Path) -> float:
    """Convert a checkpoint, and compare the result with open_clip.

    Args:
        model: Folder with `open_clip_config.json`, or Hub id of such a repository.
        output_dir: Existing folder for the converted model.

    Returns:
        The largest difference between a component of an L2-normalized embedding and open_clip's.

    Raises:
        ValueError: The model does not exist, has no weights, or its embeddings would differ from open_clip's.
    """
    import open_clip
    from safetensors.torch import save_file
    from transformers import VisionTextDualEncoderProcessor

    config = _read_config(model)
    name = f"{'local-dir' if Path(model).is_dir() else 'hf-hub'}:{model}"  # open_clip's schema
    try:
        network = open_clip.create_model(name, force_custom_text=True).eval()
    except (RuntimeError, FileNotFoundError) as error:
        raise ValueError(f"model: open_clip cannot load {model!r} ({error}).") from error
    tokenizer = open_clip.get_tokenizer(name)
    converted = convert_tokenizer(tokenizer, config["text_cfg"])
    teacher = _convert_network(network, config)
    difference = _largest_difference(teacher, network, converted, tokenizer)
    folder = Path(output_dir)
    teacher.config.save_pretrained(folder)
    save_file(teacher.state_dict(), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    image_processor = _image_processor(
        open_clip.get_model_preprocess_cfg(network), teacher.config.image_size
    )
    VisionTextDualEncoderProcessor(image_processor, converted).save_pretrained(folder)
    image_processor.save_pretrained(folder)
    with suppress(OSError):  # not all have a card, which names the license
        shutil.copyfile(_file_of(model, CARD_FILE), folder / CARD_FILE)
    return difference


def _read_config(model: str) -> dict[str, Any]:
    try:
        return read_mapping(_file_of(model, CONFIG_FILE), "model", model_cfg=dict)["model_cfg"]
    except (OSError, HFValidationError) as error:
        raise ValueError(
            f"model: {model!r} is neither a folder with {CONFIG_FILE} nor such a repository on the Hub ({error})."
        ) from error


def _file_of(model: str, name: str) -> Path:
    """A file of a folder or of a Hub repo."""
    return Path(model) / name if Path(model).is_dir() else Path(hf_hub_download(model, name))


def _convert_network(network: "nn.Module", config: dict[str, Any]) -> "OpenClipModel":
    """The same network in the transformers API, with the widths of its feature maps in the config."""
    import torch

    from training.teachers.open_clip_model import PREFIXES, OpenClipConfig, OpenClipModel

    source: Any = network
    text_cfg = config["text_cfg"]
    if text_cfg.get("embed_cls") or source.logit_scale.ndim:
        raise ValueError(
            "model: CoCa and models with several logit scales are not supported. Choose another."
        )
    hf_config = getattr(source.text, "config", None)
    size = source.visual.image_size
    teacher = OpenClipModel(
        OpenClipConfig(
            embed_dim=config["embed_dim"],
            vision_cfg=config["vision_cfg"],
            text_cfg=text_cfg,
            hf_text_config=hf_config.to_dict() if hf_config is not None else None,
            quick_gelu=config.get("quick_gelu", False),
            image_size=size[0] if isinstance(size, (tuple, list)) else size,
            context_length=text_cfg.get("context_length", 77),
        )
    ).eval()
    names = {f"{ours}{name.removeprefix(theirs)}": value for theirs, ours in PREFIXES.items()
             for name, value in source.state_dict().items() if name.startswith(theirs)}  # fmt: skip
    teacher.load_state_dict(names | {"logit_scale": source.logit_scale})
    images = torch.zeros(1, 3, teacher.config.image_size, teacher.config.image_size)
    ids = torch.zeros(1, teacher.config.context_length, dtype=torch.int64)
    with torch.no_grad():
        feature_map = teacher.get_image_features(images).last_hidden_state
        teacher.config.text_width = teacher.get_text_features(ids).last_hidden_state.shape[-1]
    teacher.config.vision_width = 0 if feature_map is None else feature_map.shape[1]
    return teacher


def _largest_difference(
    teacher: "OpenClipModel",
    network: "nn.Module",
    tokenizer: "PreTrainedTokenizerBase",
    original: Any,
) -> float:
    """Compare embeddings of random images and of texts in both languages with open_clip's.

    Raises:
        ValueError: They differ.
    """
    import torch
    import torch.nn.functional as F

    source: Any = network
    size = teacher.config.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    limit = {
        "max_length": teacher.config.context_length,
        "padding": "max_length",
        "truncation": True,
    }
    ids = tokenizer(TEXTS, return_tensors="pt", **limit).input_ids
    largest = 0.0
    with torch.no_grad():
        pairs: dict[str, tuple[Any, Any]] = {
            "images": (
                teacher.get_image_features(images).pooler_output,
                source.encode_image(images),
            ),
            "texts": (
                teacher.get_text_features(ids).pooler_output,
                source.encode_text(original(TEXTS)),
            ),
        }
    for kind, both in pairs.items():
        found, expected = (F.normalize(each, dim=-1) for each in both)
        difference = (found - expected).abs().max().item()
        if not difference <= TOLERANCE:
            raise ValueError(
                f"model: the converted model's embeddings of {kind} differ from open_clip's by up to {difference:.1g}."
                " Choose another checkpoint."
            )
        largest = max(largest, difference)
    return largest


def _image_processor(preprocess: dict[str, Any], size: int) -> "CLIPImageProcessor":
    """Image processor with open_clip's statistics and resizing."""
    from training.teachers.preparation import square_image_processor

    return square_image_processor(
        size,
        preprocess["mean"],
        preprocess["std"],
        squash=preprocess.get("resize_mode", "shortest") == "squash",
        resample=RESAMPLE[preprocess.get("interpolation", "bicubic")],
    )


def convert_tokenizer(tokenizer: Any, text_cfg: dict[str, Any]) -> "PreTrainedTokenizerBase":
    """Convert a tokenizer of open_clip.

    open_clip also repairs wrongly decoded text and HTML entities, which a tokenizer file cannot hold.

    Raises:
        ValueError: The preparation of texts cannot be held by a tokenizer file, or the tokenizer is CLIP's own.
    """
    from open_clip.tokenizer import HFTokenizer
    from tokenizers import normalizers

    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    clean = options.pop("clean", "whitespace")
    if options or text_cfg.get("tokenizer_mode") or not isinstance(tokenizer, HFTokenizer):
        raise ValueError(
            f"model: its texts are prepared by {type(tokenizer).__name__} with {options}, mode "
            f"{text_cfg.get('tokenizer_mode')!r}, which is not supported. Choose another checkpoint, or the "
            "version of this one for transformers."
        )
    converted: Any = tokenizer.tokenizer
    own = converted.backend_tokenizer.normalizer
    converted.backend_tokenizer.normalizer = normalizers.Sequence(
        [*_cleaning(clean), *([own] if own else [])]
    )
    converted.model_max_length = tokenizer.context_length
    return converted


def _cleaning(name: str) -> list[Any]:
    """One of open_clip's cleanings of texts, as normalizers of a tokenizer file."""
    from tokenizers import Regex, normalizers

    white_space = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    if name == "whitespace":
        return white_space
    if name == "lower":
        return [*white_space, normalizers.Lowercase()]
    marks = Regex("[" + "".join(rf"\{mark}" for mark in punctuation) + "]")
    return [
        normalizers.Replace("_", " "),
        normalizers.Replace(marks, ""),
        normalizers.Lowercase(),
        *white_space,
    ]


def main(argv: list[str] | None = None):
    """Parse the options, convert, and print what was written."""
    options = parse_options(OpenClipOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("open_clip", extra="edge"):
        from training.utils.output import claim_folder

        hide_library_bars()
        inputs = {"model": options.model}
        with claim_folder(
            options.output_dir,
            FILES,
            command="open_clip",
            inputs=inputs,
            overwrite=options.overwrite,
        ):
            difference = convert(options.model, options.output_dir)
    print(
        f"{options.output_dir}: converted; largest difference from open_clip's embeddings {difference:.1g}"
    )


if __name__ == "__main__":
    main()

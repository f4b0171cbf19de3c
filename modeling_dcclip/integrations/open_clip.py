"""Convert a model folder for open_clip, and with it for every tool that loads models through open_clip.

    from modeling_dcclip.integrations.open_clip import convert
    convert("FOLDER")                                 # writes FOLDER/open_clip
    open_clip.create_model_and_transforms("local-dir:FOLDER/open_clip")

open_clip 3.3 takes the config of a text tower from a path or a Hub id, not from its own config file. The converted
model is therefore a folder of its own, and its config file names the place where it will be loaded: convert again
after moving it, or pass `repo_id` to publish it as a repo of its own, for `hf-hub:`.
"""

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from open_clip.hf_configs import arch_dict
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModel

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
INTERPOLATION = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
IMAGE_POOLING = {"mean": "avg", "cls": "token"}
TEXT_POOLING = {"mean": "mean_pooler", "cls": "cls_last_hidden_state_pooler"}
# a power of 2, so that it rounds nothing; it keeps values up to 384 below the limit of ReLU6
HEAD_SCALE = 2.0**-6
# largest difference of a component of an L2-normalized embedding between the model and its conversion
TOLERANCE = 1e-5


def convert(
    folder: str | Path, output_dir: str | Path | None = None, repo_id: str | None = None
) -> Path:
    """Write a model as an open_clip model: config, weights, tokenizer, and the config of the text tower.

    The image tower becomes a timm model, and the text tower a transformers model. Both are compared with the model
    before anything is written.

    Args:
        folder: Finished model folder.
        output_dir: Folder for the open_clip model. Default: in `folder`, `open_clip` or, with a `repo_id`,
            `open_clip_hub`.
        repo_id: Hub id that the folder will be published under. Default: the folder is loaded where it is written.

    Returns:
        Absolute path of the open_clip model.

    Raises:
        ValueError: open_clip cannot represent the image tower, the text tower or the image preprocessing.
    """
    folder = Path(folder)
    output_dir = output_dir or folder / ("open_clip_hub" if repo_id else "open_clip")
    output_dir = Path(output_dir).resolve()
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    preprocess = preprocess_config(
        _read(folder / "preprocessor_config.json"), model.config.image_size
    )
    with tempfile.TemporaryDirectory() as scratch:
        model.config.text_config.save_pretrained(scratch)
        config, network = _fitting_network(model, scratch)
    output_dir.mkdir(parents=True, exist_ok=True)
    model.config.text_config.save_pretrained(output_dir)
    shutil.copyfile(folder / "tokenizer.json", output_dir / "tokenizer.json")
    tokenizer_config = _read(folder / "tokenizer_config.json")
    for name in ("auto_map", "processor_class"):  # they refer to the code in the model folder
        tokenizer_config.pop(name, None)
    _write(output_dir / "tokenizer_config.json", tokenizer_config)
    location = repo_id or str(output_dir)
    config["text_cfg"] |= {"hf_model_name": location, "hf_tokenizer_name": location}
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(weights, output_dir / WEIGHTS_FILE)
    _write(output_dir / CONFIG_FILE, {"model_cfg": config, "preprocess_cfg": preprocess})
    return output_dir


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, content: dict[str, Any]):
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def preprocess_config(image_processor: dict[str, Any], image_size: int) -> dict[str, Any]:
    """The image preprocessing as open_clip describes it.

    Args:
        image_processor: Content of preprocessor_config.json.
        image_size: Edge of the square input image, in pixels.

    Returns:
        The fields `size`, `mean`, `std`, `interpolation` and `resize_mode`.

    Raises:
        ValueError: open_clip has no such preprocessing.
    """
    size, crop = image_processor.get("size") or {}, image_processor.get("crop_size") or {}
    square = {"height": image_size, "width": image_size}
    is_cropped = image_processor.get("do_center_crop") and crop == square
    mode = "squash" if size == square else "shortest"
    resample = image_processor.get("resample")
    if resample not in INTERPOLATION or (
        size != square and not (size.get("shortest_edge") == image_size and is_cropped)
    ):
        raise ValueError(
            f"preprocessor_config.json: size {size} with crop_size {crop} and resample {resample} has no counterpart "
            f"in open_clip, which resizes the shortest edge to {image_size} and crops the center, or resizes to a "
            f"square of {image_size}, with bilinear (2) or bicubic (3) resampling."
        )
    return {
        "size": image_size,
        "mean": image_processor["image_mean"],
        "std": image_processor["image_std"],
        "interpolation": INTERPOLATION[resample],
        "resize_mode": mode,
    }


def _fitting_network(model: Any, text_folder: str) -> tuple[dict[str, Any], CustomTextCLIP]:
    """The open_clip network that gives the model's embeddings, with its config."""
    config = _network_config(model.config, text_folder)
    network = CustomTextCLIP(**config).eval()
    weights = _weights(network, model)
    fits = [
        name in weights and weights[name].shape == each.shape
        for name, each in network.state_dict().items()
    ]
    if all(fits):
        network.load_state_dict(weights, strict=False)
        if _agrees(network, model):
            return config, network
    raise ValueError(
        f"vision_config: {model.config.vision_config.architecture!r} as it is used here has no counterpart "
        "in open_clip, which loads whole timm models."
    )


def _network_config(config: Any, text_folder: str) -> dict[str, Any]:
    """Config of open_clip with the image projection as timm's classifier."""
    vision, text = config.vision_config, config.text_config
    if (
        vision.model_type != "timm_wrapper"
        or config.vision_pooling not in IMAGE_POOLING
        or text.model_type not in arch_dict
    ):
        raise ValueError(
            "config: open_clip loads timm models with mean or cls pooling as vision_config, and "
            f"{', '.join(arch_dict)} as text_config. Got {vision.model_type!r} with {config.vision_pooling!r} "
            f"pooling, and {text.model_type!r}."
        )
    return {
        "embed_dim": config.embedding_dim,
        "vision_cfg": {
            "image_size": config.image_size,
            "timm_model_name": vision.architecture,
            "timm_model_pretrained": False,
            "timm_pool": IMAGE_POOLING[config.vision_pooling],
            "timm_proj": "",
        },
        "text_cfg": {
            "context_length": config.max_text_length,
            "vocab_size": text.vocab_size,
            "hf_model_name": text_folder,
            "hf_model_pretrained": False,
            "hf_tokenizer_name": text_folder,
            "hf_proj_type": "linear",
            "hf_pooler_type": TEXT_POOLING[config.text_pooling],
        },
    }


def _weights(network: CustomTextCLIP, model: Any) -> dict[str, Tensor]:
    """The model's weights under open_clip's names."""
    dimension = model.config.embedding_dim
    weights: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        if name.startswith("vision_model.timm_model."):
            # timm's getter of feature maps holds the backbone as `model`
            inner = name.removeprefix("vision_model.timm_model.").removeprefix("model.")
            weights[f"visual.trunk.{inner}"] = weight
        elif name.startswith("text_model."):
            weights[f"text.transformer.{name.removeprefix('text_model.')}"] = weight
    weights["logit_scale"] = model.logit_scale
    weights["text.proj.weight"] = model.text_projection.weight[:dimension]
    projection = model.visual_projection.weight[:dimension]
    trunk: Any = cast(Any, network.visual).trunk
    if hasattr(trunk, "conv_head") and trunk.conv_head.in_channels == projection.shape[1]:
        projection, head = _pass_through_head(trunk, projection)
        weights |= head
    classifier = f"visual.trunk.{trunk.default_cfg['classifier']}"
    weights[f"{classifier}.weight"] = projection
    weights[f"{classifier}.bias"] = torch.zeros(dimension)
    return weights


def _pass_through_head(trunk: Any, projection: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Weights that turn the wide last layer of an EfficientNet or MobileNet into an identity: our model has none.

    The layer is a 1 x 1 convolution to H channels, a BatchNorm and an activation f. It holds each of the W input
    channels twice, as x and -x: f(x) - f(-x) = x for ReLU, SiLU, GELU and Hardswish, and small values are not clipped
    by ReLU6. Where H < 2 W, it holds x alone, which is exact only after a ReLU.

    Returns the weight of the projection of the layer's output, (D, H), and weights of the layer by name.
    """
    weight = torch.zeros_like(trunk.conv_head.weight)  # (H, W, 1, 1)
    width = weight.shape[1]
    wide = projection.new_zeros(len(projection), len(weight))
    for part, sign in enumerate((1, -1)[: len(weight) // width]):
        rows = slice(part * width, (part + 1) * width)
        weight[rows, :, 0, 0] = sign * HEAD_SCALE * torch.eye(width)
        wide[:, rows] = projection * sign / HEAD_SCALE
    head = {"conv_head.weight": weight, "conv_head.bias": torch.zeros(len(weight))}
    name = "norm_head" if hasattr(trunk, "norm_head") else "bn2"
    norm = getattr(trunk, name)
    if norm.state_dict():
        identity = nn.BatchNorm2d(len(weight), eps=norm.eps)  # its statistics are 0 and 1
        nn.init.constant_(identity.weight, math.sqrt(1 + norm.eps))
        head |= {f"{name}.{key}": value for key, value in identity.state_dict().items()}
    return wide, {f"visual.trunk.{key}": value for key, value in head.items()}


@torch.no_grad()
def _agrees(network: CustomTextCLIP, model: Any) -> bool:
    """Whether both give equal embeddings, of random images and of texts with and without padding."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, config.image_size, config.image_size, generator=generator)
    length, pad = config.max_text_length, config.text_config.pad_token_id
    texts = torch.randint(0, config.text_config.vocab_size, (4, length), generator=generator)
    texts[texts == pad] += 1
    texts[1:, length // 2 :] = pad
    for found, features in (
        (network.encode_image(images, normalize=True), model.get_image_features(images)),
        (network.encode_text(texts, normalize=True), model.get_text_features(texts)),
    ):
        expected = nn.functional.normalize(features.pooler_output, dim=-1)
        if not torch.allclose(found, expected, rtol=0, atol=TOLERANCE):
            return False
    return True

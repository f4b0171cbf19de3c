"""Store a finished model's embeddings of a fixed image and fixed texts beside its weights.

Any copy of the folder, on any machine, can be compared with them.
"""

import base64
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from training.utils.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from modeling_dcclip import DCCLIPModel, DCCLIPProcessor

SELF_CHECK_FILE = "self_check.json"
TEXTS = {
    "en": ["a house under the sun", "a red apple", "two dogs in the snow"],
    "zh": ["太阳下的房子", "一个红苹果", "雪地里的两只狗"],
}
# for L2-normalised embeddings: wide enough for another device's rounding, far below other weights or another text
TOLERANCE = 1e-3


def draw_image() -> bytes:
    """A house under the sun as PNG. The bytes are stored, since another version of Pillow may draw other pixels."""
    image = Image.linear_gradient("L").resize((96, 96))
    image = Image.merge("RGB", [image.point(lambda v: 90 + v // 2), image.point(lambda v: 160 + v // 4), image])
    draw = ImageDraw.Draw(image)
    draw.ellipse((66, 8, 86, 28), fill=(255, 214, 64))
    draw.rectangle((0, 72, 96, 96), fill=(86, 150, 64))
    draw.rectangle((24, 48, 60, 80), fill=(214, 160, 110))
    draw.polygon([(18, 50), (42, 26), (66, 50)], fill=(168, 52, 44))
    draw.rectangle((36, 60, 48, 80), fill=(96, 62, 40))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_self_check(student: "DCCLIPModel", processor: "DCCLIPProcessor", folder: str | Path):
    """Write `self_check.json`: the texts, the image, and the model's L2-normalised embeddings of them.

    Args:
        student: The trained model, on any device. Train and eval modes of its layers are restored afterwards.
        processor: The processor of the model.
        folder: The folder that holds the model's weights.
    """
    import torch  # not at the top, so that `python -m training.hub.cards --help` answers without PyTorch

    png = draw_image()
    texts = [text for language in TEXTS.values() for text in language]
    limits: dict[str, Any] = {"truncation": True, "max_length": student.config.max_text_length}
    inputs = processor(images=Image.open(io.BytesIO(png)), text=texts, return_tensors="pt", **limits)
    inputs = inputs.to(student.device)
    modes = [(module, module.training) for module in student.modules()]  # a stage may freeze single BatchNorm layers
    student.eval()
    with torch.no_grad():
        text_embeds = student.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
        image_embeds = student.get_image_features(inputs["pixel_values"].to(student.dtype)).pooler_output
    for module, training in modes:
        module.training = training
    content = {
        "texts": TEXTS,
        "image": base64.b64encode(png).decode(),
        "text_embeds": _to_lists(text_embeds),
        "image_embeds": _to_lists(image_embeds),
        "tolerance": TOLERANCE,
    }
    write_text(Path(folder) / SELF_CHECK_FILE, json.dumps(content, ensure_ascii=False) + "\n")


def _to_lists(embeds: "Tensor") -> list[list[float]]:
    """L2-normalised rows of (N, D), rounded to six digits."""
    from torch.nn.functional import normalize

    rows = normalize(embeds.float(), dim=-1).cpu().tolist()
    return [[round(value, 6) for value in row] for row in rows]

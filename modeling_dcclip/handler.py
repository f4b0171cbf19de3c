"""Inference Endpoints: answers what the Hub's zero-shot-image-classification widget and client send."""

import base64
import binascii
import io
import re
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from transformers import AutoModel, AutoProcessor

MAX_LABELS = 1000
MAX_PIXELS = 40_000_000
DEFAULT_TEMPLATE = "{}"
DATA_URL = re.compile(r"^data:[\w/+.-]*;base64,")
# the comma of a keyboard in either language
LABEL_SEPARATOR = re.compile("[,，、]")


class BadRequest(ValueError):
    """The payload cannot be answered; the message says why. Endpoints answer any exception with status 400 and it.

    Args:
        message: names the field, what it got and what it wants.
        status_code: of the HTTP answer, in 400..499.
    """

    def __init__(self, message: str, status_code: int = 400):
        super().__init__(message)
        self.status_code = status_code


class EndpointHandler:
    """Zero-shot labels for an image, in Chinese and English. Inference Endpoints find this class by its name.

    Args:
        path: the repo's folder. Only its own code is run.
    """

    def __init__(self, path: str = ""):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModel.from_pretrained(path or ".", trust_remote_code=True).eval().to(device)
        self.processor = AutoProcessor.from_pretrained(path or ".", trust_remote_code=True)

    @torch.inference_mode()
    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Answer one request.

        Args:
            data: `inputs` is the image: base64, with or without `data:image/...;base64,` before it, bytes, a PIL
                image, or a dict with one of them under `image` (and perhaps `candidate_labels`). The labels are
                `parameters.candidate_labels` or `candidate_labels`: a list, or one string with commas.
                `parameters.hypothesis_template` is a sentence with `{}` in the place of the label; default: the label
                alone, which suits both languages.

        Returns:
            `[{"score": share, "label": label}, ...]`, the best first; the shares sum to 1.

        Raises:
            BadRequest: a field is missing, of a wrong type, empty, or too large.
        """
        image, labels, template = read_request(data)
        inputs = self.processor(images=image, text=[template.replace("{}", label) for label in labels])
        longest = max(len(ids) for ids in inputs["input_ids"])
        if longest > self.model.config.max_text_length:
            raise BadRequest(
                f"candidate_labels: the longest makes {longest} tokens, this model reads at most "
                f"{self.model.config.max_text_length}. Shorten it."
            )
        inputs = inputs.convert_to_tensors("pt").to(self.model.device)
        shares = self.model(**inputs).logits_per_image[0].float().softmax(-1).tolist()
        answers = [{"score": share, "label": label} for share, label in zip(shares, labels, strict=True)]
        return sorted(answers, key=lambda answer: -answer["score"])


def read_request(data: dict[str, Any]) -> tuple[Image.Image, list[str], str]:
    """Image, labels and template of a request; see [`EndpointHandler.__call__`]."""
    if not isinstance(data, dict):
        raise BadRequest(f"The request is of type {type(data).__name__}; send a JSON object with `inputs`.")
    inputs = data.get("inputs", data.get("image"))
    parameters = data.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadRequest(f"parameters is of type {type(parameters).__name__}; send a JSON object.")
    places = [parameters, data]
    if isinstance(inputs, dict):
        places.append(inputs)
        inputs = inputs.get("image", inputs.get("inputs"))
    labels = next((place["candidate_labels"] for place in places if place.get("candidate_labels") is not None), None)
    template = next((place["hypothesis_template"] for place in places if place.get("hypothesis_template")), None)
    return _read_image(inputs), _read_labels(labels), _read_template(template)


def _read_image(value: Any) -> Image.Image:
    if isinstance(value, str):
        if value.startswith(("http://", "https://")):
            raise BadRequest("inputs is a URL; this endpoint fetches nothing. Send the image itself as base64.")
        try:
            value = base64.b64decode("".join(DATA_URL.sub("", value).split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadRequest(f"inputs is not base64 ({error}). Send an image as base64.") from error
    if isinstance(value, (bytes, bytearray)):
        try:
            value = Image.open(io.BytesIO(value))
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
            raise BadRequest(f"inputs is no image that can be read ({type(error).__name__}).") from error
    if not isinstance(value, Image.Image):
        kind = "missing" if value is None else f"of type {type(value).__name__}"
        raise BadRequest(f"inputs is {kind}; send an image as base64.")
    if value.width * value.height > MAX_PIXELS:
        raise BadRequest(f"inputs has {value.width} x {value.height} pixels, at most {MAX_PIXELS:,} are read.", 413)
    try:
        if value.mode not in ("RGB", "L"):  # transparent images on white, as in training
            value = value.convert("RGBA")
            value = Image.alpha_composite(Image.new("RGBA", value.size, "white"), value)
        return value.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # cut off, or damaged behind its header
        raise BadRequest(f"inputs is a damaged image ({error}).") from error


def _read_labels(value: Any) -> list[str]:
    if isinstance(value, str):
        value = LABEL_SEPARATOR.split(value)
    if not isinstance(value, (list, tuple)) or not all(isinstance(label, str) for label in value):
        kind = "missing" if value is None else f"{value!r:.80}"
        raise BadRequest(f"candidate_labels is {kind}; send a list of strings, or one string with commas.")
    labels = list(dict.fromkeys(label.strip() for label in value if label.strip()))
    if not 1 <= len(labels) <= MAX_LABELS:
        raise BadRequest(f"candidate_labels has {len(labels)} labels that are not empty; send 1 to {MAX_LABELS}.")
    return labels


def _read_template(value: Any) -> str:
    value = DEFAULT_TEMPLATE if value is None else value
    if not isinstance(value, str) or "{}" not in value:
        raise BadRequest(f"hypothesis_template is {value!r:.80}; send a sentence with {{}} in the label's place.")
    return value

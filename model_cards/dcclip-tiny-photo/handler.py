"""Request handler for Inference Endpoints: ranks labels for images, or embeds images and texts.

Requests have the format of the Hub's zero-shot-image-classification task. `dcclip serve --api` answers
them with the function `answer` and without PyTorch, which is therefore imported where it is used.
"""

import base64
import re
import reprlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

try:
    from .image_dcclip import DecompressionBomb, ImageError, open_image, to_rgb
except ImportError:  # Inference Endpoints import this file by its path
    sys.path.append(str(Path(__file__).parent))
    from image_dcclip import DecompressionBomb, ImageError, open_image, to_rgb  # type: ignore[no-redef]

MAX_LABELS = 1000
MAX_INPUTS = {"texts": 1000, "images": 64}  # in a request
MAX_CHARACTERS = 1000  # of a text, a label and the template
MAX_PIXELS = 40_000_000
MAX_BYTES = 32 * 2**20  # of an encoded image
TEXTS_AT_ONCE = 64  # in a forward pass; 1,000 long labels at once would take a gigabyte
# base64 of URLs has other characters; white space is ignored
URL_SAFE, WHITESPACE = bytes.maketrans(b"-_", b"+/"), b" \t\r\n\f\v"
# commas and semicolons of an English and a Chinese keyboard, as on the page and in the Space
LABEL_SEPARATOR = re.compile(r"[,，、;；\n]")

ImageEncoder = Callable[[list[Image.Image]], np.ndarray]
TextEncoder = Callable[[list[str]], np.ndarray]


class BadRequest(ValueError):
    """An invalid request. Inference Endpoints return status 400 with the message of any exception.

    Args:
        template: Error message with the field, the value and the expected value; values stand for its `{}`.
        values: Values in the order of the template.
        status_code: HTTP status code of the response, in 400..499.
    """

    def __init__(self, template: str, *values: Any, status_code: int = 400):
        super().__init__(template.format(*values) if values else template)
        self.template, self.values = template, values  # which a server can translate
        self.status_code = status_code


class EndpointHandler:
    """Labels and embeddings in Chinese and English. Inference Endpoints look up this class by name.

    Args:
        path: Folder of the repo. The model code is loaded from it.
    """

    def __init__(self, path: str = ""):
        import torch
        from transformers import AutoModel, AutoProcessor

        model = AutoModel.from_pretrained(path or ".", trust_remote_code=True)
        self.model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = AutoProcessor.from_pretrained(path or ".", trust_remote_code=True)
        sizes = dict(self.processor.image_processor.size).values()
        self.size = max(value for value in sizes if value)
        self.lock = threading.Lock()  # a forward pass uses all cores, and images take memory

    def __call__(self, data: dict[str, Any]) -> list[Any] | dict[str, Any]:
        """Answer one request: rank labels for images, or embed images and texts.

        Args:
            data: Request with an image, or a list of up to 64, under `inputs`: base64 with or without a
                `data:image/...;base64,` prefix, bytes, or a PIL image. The labels are in
                `parameters.candidate_labels`: a list, or one string with commas, semicolons or line ends.
                `parameters.hypothesis_template` is a sentence with `{}` for the label; default: the label alone, which
                works in both languages.
                With `"task": "embed"`, `inputs` is a dict with the lists `texts`, `images` or both.

        Returns:
            `[{"score": score, "label": label}, ...]`, highest score first; the scores sum to 1. For a list of images,
            a list of such lists. For embeddings, `{"texts": [[...], ...], "images": [[...], ...]}` with the lists of
            the request: L2-normalized, in order.

        Raises:
            BadRequest: A field is missing, empty, too large or of the wrong type.
        """
        import torch

        with self.lock, torch.inference_mode():
            scale = self.model.logit_scale.exp().item()
            return answer(data, self.size, self._encode_images, self._encode_texts, scale)

    def _encode_images(self, images: list[Image.Image]) -> np.ndarray:
        inputs = self.processor(images=images, return_tensors="pt").to(self.model.device)
        return _normalized(self.model.get_image_features(**inputs).pooler_output)

    def _encode_texts(self, texts: list[str]) -> np.ndarray:
        inputs = self.processor(text=texts)
        longest = max(len(ids) for ids in inputs["input_ids"])
        if longest > self.model.config.max_text_length:
            raise BadRequest(
                "texts or candidate_labels: the longest has {} tokens; this model accepts at most {}. Shorten it.",
                longest,
                self.model.config.max_text_length,
            )
        inputs = inputs.convert_to_tensors("pt").to(self.model.device)
        parts = [
            {name: value[start : start + TEXTS_AT_ONCE] for name, value in inputs.items()}
            for start in range(0, len(texts), TEXTS_AT_ONCE)
        ]
        return np.concatenate(
            [_normalized(self.model.get_text_features(**part).pooler_output) for part in parts]
        )


def _normalized(features: Any) -> np.ndarray:
    """A tensor (N, D) as an array of float32 whose rows have unit length."""
    vectors = features.float().cpu().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def answer(
    data: Any,
    size: int | None,
    encode_images: ImageEncoder,
    encode_texts: TextEncoder,
    logit_scale: float,
) -> list[Any] | dict[str, Any]:
    """Answer a request as [`EndpointHandler.__call__`] does.

    Args:
        data: The request.
        size: Short side of the resized image in pixels, so that a JPEG is decoded smaller. None decodes it whole.
        encode_images: Function from images to L2-normalized embeddings, (N, D).
        encode_texts: Function from texts to L2-normalized embeddings, (N, D).
        logit_scale: Factor on cosine similarities.

    Raises:
        BadRequest: A field is missing, empty, too large or of the wrong type.
    """
    if not isinstance(data, dict):
        raise BadRequest(
            "The request is of type {}; send a JSON object with `inputs`.", type(data).__name__
        )
    if data.get("task") == "embed":
        return _embed(data.get("inputs"), size, encode_images, encode_texts)
    if data.get("task") not in (None, "classify"):
        raise BadRequest("task is {:.80}; send classify or embed.", reprlib.repr(data["task"]))
    parameters = data.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadRequest("parameters is of type {}; send a JSON object.", type(parameters).__name__)
    labels = _labels(parameters.get("candidate_labels"))
    template = _template(parameters.get("hypothesis_template") or "{}")
    inputs = data.get("inputs")
    images = _images("inputs", inputs if isinstance(inputs, list) else [inputs], size)
    texts = encode_texts([template.replace("{}", label) for label in labels])
    answers = [_ranked(labels, logit_scale * (texts @ encode_images([each])[0])) for each in images]
    return answers if isinstance(inputs, list) else answers[0]


def _ranked(labels: list[str], logits: np.ndarray) -> list[dict[str, Any]]:
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    return [
        {"score": float(scores[number]), "label": labels[number]}
        for number in np.argsort(-scores, kind="stable")
    ]


def _embed(
    inputs: Any, size: int | None, encode_images: ImageEncoder, encode_texts: TextEncoder
) -> dict[str, Any]:
    if not isinstance(inputs, dict) or not inputs or inputs.keys() - MAX_INPUTS.keys():
        raise BadRequest(
            "inputs: to embed, send an object with the lists `texts`, `images` or both."
        )
    vectors: dict[str, Any] = {}
    if "texts" in inputs:
        texts = _bounded("texts", inputs["texts"], MAX_INPUTS["texts"])
        for text in texts:
            _check_text("texts", text)
        vectors["texts"] = encode_texts(texts).tolist()
    if "images" in inputs:
        images = _images("images", inputs["images"], size)
        vectors["images"] = [encode_images([image])[0].tolist() for image in images]
    return vectors


def _bounded(field: str, values: Any, most: int) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise BadRequest("{} is {:.80}; send a list of 1 to {}.", field, reprlib.repr(values), most)
    if len(values) > most:
        raise BadRequest(
            "{} has {} items; send at most {}.", field, len(values), most, status_code=413
        )
    return values


def _images(field: str, values: Any, size: int | None) -> Iterator[Image.Image]:
    """Check the list and decode each image when the iterator reaches it."""
    for number, value in enumerate(_bounded(field, values, MAX_INPUTS["images"])):
        yield _image(f"{field}[{number}]", value, size)


def _image(field: str, value: Any, size: int | None) -> Image.Image:
    if isinstance(value, str):
        value = _decoded(field, value)
    if isinstance(value, (bytes, bytearray)):
        if len(value) > MAX_BYTES:
            raise BadRequest(
                "{} has {:,} bytes; send at most {:,}.",
                field,
                len(value),
                MAX_BYTES,
                status_code=413,
            )
        try:
            return open_image(bytes(value), size, max_pixels=MAX_PIXELS)
        except DecompressionBomb as error:
            raise BadRequest(
                "{} has {}; send fewer pixels.", field, error, status_code=413
            ) from error
        except ImageError as error:
            raise BadRequest(
                "{} does not decode ({}). Send a PNG, JPEG or WebP image.", field, error
            ) from error
    if not isinstance(value, Image.Image):
        kind = "missing" if value is None else f"of type {type(value).__name__}"
        raise BadRequest("{} is {}; send an image as base64.", field, kind)
    if value.width * value.height > MAX_PIXELS:
        raise BadRequest(
            "{} has {} x {} pixels; send at most {:,}.",
            field,
            value.width,
            value.height,
            MAX_PIXELS,
            status_code=413,
        )
    return to_rgb(value)


def _decoded(field: str, text: str) -> bytes:
    """Decode base64, with or without the prefix of a data URL, and with or without padding."""
    if len(text) > MAX_BYTES * 4 // 3 + 1000:  # before it is copied
        raise BadRequest(
            "{} has {:,} characters; send at most {:,} bytes as base64.",
            field,
            len(text),
            MAX_BYTES,
            status_code=413,
        )
    if text.startswith(("http://", "https://")):
        raise BadRequest(
            "{} is a URL; this endpoint does not download images. Send the image as base64.", field
        )
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        content = text.encode("ascii").translate(URL_SAFE, WHITESPACE).rstrip(b"=")
        return base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
    except ValueError as error:
        raise BadRequest("{} is not base64 ({}). Send an image as base64.", field, error) from error


def _labels(value: Any) -> list[str]:
    if isinstance(value, str):
        value = [label for label in LABEL_SEPARATOR.split(value) if label.strip()]
    labels = _bounded("candidate_labels", value, MAX_LABELS)
    for label in labels:
        _check_text("candidate_labels", label)
    return [label.strip() for label in labels]


def _template(value: Any) -> str:
    _check_text("hypothesis_template", value)
    if value.count("{}") != 1:
        raise BadRequest(
            "hypothesis_template is {:.80}; send a sentence with one {{}}, where the label goes.",
            reprlib.repr(value),
        )
    return value


def _check_text(field: str, text: Any):
    """Refuse texts that take long to tokenize, and lone surrogates, which are not valid Unicode."""
    if not isinstance(text, str) or not text.strip():
        raise BadRequest("{} has {:.80}; send non-empty strings.", field, reprlib.repr(text))
    if len(text) > MAX_CHARACTERS:
        raise BadRequest(
            "{}: {!r}... has {:,} characters; send at most {}.",
            field,
            text[:40],
            len(text),
            MAX_CHARACTERS,
            status_code=413,
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(
            "{}: {!r} is not valid Unicode ({}). Send UTF-8 text.", field, text[:40], error.reason
        ) from error

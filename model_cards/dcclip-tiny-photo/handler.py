"""Request handler for Inference Endpoints: ranks labels for an image, or embeds images and texts.

Requests have the format of the Hub's zero-shot-image-classification task. `dcclip serve --api` answers
them with the function `answer` and without PyTorch, which is therefore imported where it is used.
"""

import base64
import binascii
import re
import reprlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

try:
    from .image_dcclip import REDUCING_GAP, DecompressionBomb, ImageError, open_image, to_rgb
except ImportError:  # Inference Endpoints import this file by its path
    sys.path.append(str(Path(__file__).parent))
    from image_dcclip import REDUCING_GAP, DecompressionBomb, ImageError, open_image, to_rgb  # type: ignore[no-redef]

TASKS = ("classify", "embed")
MAX_LABELS = 1000
MAX_INPUTS = {"texts": 1000, "images": 64}  # in a request for embeddings
MAX_CHARACTERS = 1000  # of a label and of the template
MAX_PLACES = 8  # of the label in the template
MAX_PIXELS = 40_000_000
WHOLE_PIXELS = 8_000_000  # of an image that is prepared at its full size; the processor makes four copies of it
MAX_BYTES = 32 * 2**20  # of an encoded image
TEXTS_AT_ONCE = 64  # in a forward pass; 1,000 long labels at once would take a gigabyte
DEFAULT_TEMPLATE = "{}"
DATA_URL = re.compile(r"^data:[\w/+.-]*;base64,")
WHITESPACE = b" \t\r\n\f\v"
# commas and semicolons of an English and a Chinese keyboard, as on the page and in the Space
LABEL_SEPARATOR = re.compile(r"[,，、;；\n]")


class BadRequest(ValueError):
    """An invalid request. Inference Endpoints return status 400 with the message of any exception.

    Args:
        message: Error message with the field, the value and the expected value.
        status_code: HTTP status code of the response, in 400..499.
    """

    def __init__(self, message: str, status_code: int = 400):
        super().__init__(message)
        self.status_code = status_code


class EndpointHandler:
    """Labels and embeddings in Chinese and English. Inference Endpoints look up this class by name.

    Args:
        path: Folder of the repo. The model code is loaded from it.
    """

    def __init__(self, path: str = ""):
        import torch
        from transformers import AutoModel, AutoProcessor

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = (
            AutoModel.from_pretrained(path or ".", trust_remote_code=True).eval().to(device)
        )
        self.processor = AutoProcessor.from_pretrained(path or ".", trust_remote_code=True)
        self.size = max(
            value for value in dict(self.processor.image_processor.size).values() if value
        )
        self.lock = (
            threading.Lock()
        )  # one large image at a time; a forward pass uses all cores anyway

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]] | dict[str, Any]:
        """Answer one request: rank labels for an image, or embed images and texts.

        Args:
            data: Request with an image under `inputs`: base64 with or without a `data:image/...;base64,` prefix,
                bytes, a PIL image, or a dict with one of these under `image` and optional `candidate_labels`. The
                labels are in `parameters.candidate_labels` or `candidate_labels`: a list, or one string with commas,
                semicolons or line ends.
                `parameters.hypothesis_template` is a sentence with `{}` for the label; default: the label alone, which
                works in both languages.
                With `"task": "embed"`, `inputs` is a dict with the lists `texts`, `images` or both.

        Returns:
            `[{"score": score, "label": label}, ...]`, highest score first; the scores sum to 1. For embeddings,
            `{"texts": [[...], ...], "images": [[...], ...]}` with the lists of the request: L2-normalised, in order.

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
                f"texts or candidate_labels: the longest has {longest} tokens; this model accepts at most "
                f"{self.model.config.max_text_length}. Shorten it."
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
    encode_images: Callable[[list[Image.Image]], np.ndarray],
    encode_texts: Callable[[list[str]], np.ndarray],
    logit_scale: float,
) -> list[dict[str, Any]] | dict[str, Any]:
    """Answer a request as [`EndpointHandler.__call__`] does.

    The functions return L2-normalised embeddings, (N, D). `size` is the short side of the resized image, in pixels.
    """
    if not isinstance(data, dict):
        raise BadRequest(
            f"The request is of type {type(data).__name__}; send a JSON object with `inputs`."
        )
    if (task := data.get("task", TASKS[0])) not in TASKS:
        raise BadRequest(f"task is {reprlib.repr(task):.80}; send one of {', '.join(TASKS)}.")
    if task == "embed":
        texts, images = parse_inputs(data, size)
        vectors = {"images": [encode_images([image])[0].tolist() for image in images]}
        if texts:
            vectors["texts"] = encode_texts(texts).tolist()
        return {name: each for name, each in vectors.items() if each}
    image, labels, template = parse_request(data, size)
    texts = [template.replace("{}", label) for label in labels]
    logits = logit_scale * (encode_texts(texts) @ encode_images([image])[0])
    scores = np.exp(logits - logits.max())
    scores = (scores / scores.sum()).tolist()
    predictions = [
        {"score": score, "label": label} for score, label in zip(scores, labels, strict=True)
    ]
    return sorted(predictions, key=lambda prediction: -prediction["score"])


def parse_inputs(
    data: dict[str, Any], size: int | None = None
) -> tuple[list[str], Iterator[Image.Image]]:
    """Texts and images of a request for embeddings. Each image is decoded when the iterator reaches it."""
    inputs = data.get("inputs")
    if not isinstance(inputs, dict) or not inputs or inputs.keys() - MAX_INPUTS.keys():
        raise BadRequest(
            "inputs: to embed, send an object with the lists `texts`, `images` or both."
        )
    for field, value in inputs.items():
        if not isinstance(value, list) or not value:
            raise BadRequest(
                f"{field} is {reprlib.repr(value):.80}; send a list of 1 to {MAX_INPUTS[field]}."
            )
        if len(value) > MAX_INPUTS[field]:
            raise BadRequest(
                f"{field} has {len(value)} items; send at most {MAX_INPUTS[field]}.", 413
            )
    texts = inputs.get("texts", [])
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise BadRequest(f"texts has {reprlib.repr(text):.80}; send non-empty strings.")
        _check_text("texts", text)
    return texts, _decode_images(inputs.get("images", []), size)


def _decode_images(values: list[Any], size: int | None) -> Iterator[Image.Image]:
    for number, value in enumerate(values):
        try:
            yield _decode_image(value, size)
        except BadRequest as error:
            raise BadRequest(f"images[{number}]: {error}", error.status_code) from error


def parse_request(
    data: dict[str, Any], size: int | None = None
) -> tuple[Image.Image, list[str], str]:
    """Image, labels and template of a request in the format of [`EndpointHandler.__call__`].

    Args:
        data: The request.
        size: Short side of the resized image in pixels, so that a large image is reduced at once. Default: full size.

    Raises:
        BadRequest: A field is missing, empty, too large or of the wrong type.
    """
    inputs = data.get("inputs", data.get("image"))
    parameters = data["parameters"] if data.get("parameters") is not None else {}
    if not isinstance(parameters, dict):
        raise BadRequest(f"parameters is of type {type(parameters).__name__}; send a JSON object.")
    sources = [parameters, data]
    if isinstance(inputs, dict):
        sources.append(inputs)
        inputs = inputs.get("image", inputs.get("inputs"))
    labels = next(
        (each["candidate_labels"] for each in sources if each.get("candidate_labels") is not None),
        None,
    )
    template = next(
        (each["hypothesis_template"] for each in sources if each.get("hypothesis_template")), None
    )
    return _decode_image(inputs, size), _parse_labels(labels), _check_template(template)


def _decode_image(value: Any, size: int | None) -> Image.Image:
    if isinstance(value, str):
        if len(value) > MAX_BYTES * 4 // 3 + 1000:  # before it is copied
            raise BadRequest(
                f"inputs has {len(value):,} characters; send at most {MAX_BYTES:,} bytes as base64.",
                413,
            )
        if value.startswith(("http://", "https://")):
            raise BadRequest(
                "inputs is a URL; this endpoint does not download images. Send the image as base64."
            )
        try:
            value = base64.b64decode(_base64_characters(value), validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadRequest(f"inputs is not base64 ({error}). Send an image as base64.") from error
    if isinstance(value, (bytes, bytearray)):
        if len(value) > MAX_BYTES:
            raise BadRequest(f"inputs has {len(value):,} bytes; send at most {MAX_BYTES:,}.", 413)
        return _open_file(bytes(value), size)
    if not isinstance(value, Image.Image):
        kind = "missing" if value is None else f"of type {type(value).__name__}"
        raise BadRequest(f"inputs is {kind}; send an image as base64.")
    if value.width * value.height > MAX_PIXELS:
        raise BadRequest(
            f"inputs has {value.width} x {value.height} pixels; send at most {MAX_PIXELS:,}.", 413
        )
    return _reduced(to_rgb(value), size)


def _base64_characters(text: str) -> bytes:
    """The characters of base64 without prefix and white space. `split` would make an object of every piece."""
    prefix = DATA_URL.match(text)
    return (text[prefix.end() :] if prefix else text).encode("ascii").translate(None, WHITESPACE)


def _open_file(content: bytes, size: int | None) -> Image.Image:
    try:
        return _reduced(open_image(content, size, max_pixels=MAX_PIXELS), size)
    except DecompressionBomb as error:
        raise BadRequest(f"inputs has {error}; send fewer pixels.", 413) from error
    except ImageError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise BadRequest(
                "inputs cannot be decoded as an image. Send a PNG, JPEG or WebP image."
            ) from error
        raise BadRequest(f"inputs is a damaged image ({error}).") from error


def _reduced(image: Image.Image, size: int | None) -> Image.Image:
    """Shrink a very large image by a whole factor, as a JPEG is decoded smaller."""
    if size is None or image.width * image.height <= WHOLE_PIXELS:
        return image
    return image.reduce(max(1, min(image.size) // (REDUCING_GAP * size)))


def _parse_labels(value: Any) -> list[str]:
    if isinstance(value, str):
        if len(value) > MAX_LABELS * MAX_CHARACTERS:
            raise BadRequest(
                f"candidate_labels has {len(value):,} characters; send at most {MAX_LABELS} labels.",
                413,
            )
        value = LABEL_SEPARATOR.split(value)
    if not isinstance(value, (list, tuple)) or not all(isinstance(label, str) for label in value):
        kind = "missing" if value is None else f"{reprlib.repr(value):.80}"
        raise BadRequest(
            f"candidate_labels is {kind}; send a list of strings, or one string with commas."
        )
    if len(value) > MAX_LABELS:
        raise BadRequest(f"candidate_labels has {len(value)} labels; send 1 to {MAX_LABELS}.")
    for label in value:
        _check_text("candidate_labels", label)
    labels = list(dict.fromkeys(label.strip() for label in value if label.strip()))
    if not 1 <= len(labels) <= MAX_LABELS:
        raise BadRequest(
            f"candidate_labels has {len(labels)} non-empty labels; send 1 to {MAX_LABELS}."
        )
    return labels


def _check_template(value: Any) -> str:
    value = DEFAULT_TEMPLATE if value is None else value
    if not isinstance(value, str) or "{}" not in value:
        raise BadRequest(
            f"hypothesis_template is {reprlib.repr(value):.80}; send a sentence with {{}} where the label goes."
        )
    _check_text("hypothesis_template", value)
    if value.count("{}") > MAX_PLACES:
        raise BadRequest(
            f"hypothesis_template has {value.count('{}')} places {{}}; send at most {MAX_PLACES}."
        )
    return value


def _check_text(field: str, text: str):
    """Refuse texts that take long to tokenize, and lone surrogates, which are not valid Unicode."""
    if len(text) > MAX_CHARACTERS:
        raise BadRequest(
            f"{field}: {text[:40]!r}... has {len(text):,} characters; send at most {MAX_CHARACTERS}.",
            413,
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(
            f"{field}: {text[:40]!r} is not valid Unicode ({error.reason}). Send UTF-8 text."
        ) from error

"""Request handler for Inference Endpoints: ranks labels for images, or embeds images and texts.

Requests have the format of the Hub's zero-shot-image-classification task. `dcclip serve --api` answers
them with the function `answer` and without PyTorch, which is therefore imported where it is used.
"""

import base64
import re
import reprlib
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

try:
    from .image_dcclip import open_image
except ImportError:  # Inference Endpoints import this file by its path
    sys.path.append(str(Path(__file__).parent))
    from image_dcclip import open_image  # type: ignore[no-redef]

MAX_LABELS = 1000
MAX_INPUTS = {"texts": 1000, "images": 64}  # in a request
MAX_CHARACTERS = 1000  # longest text, label and template
MAX_PIXELS = 40_000_000
MAX_BYTES = 32 * 2**20  # largest encoded image
IMAGES_AT_ONCE = 8  # in a forward pass
# base64 of URLs has other characters; white space is ignored
URL_SAFE, WHITESPACE = bytes.maketrans(b"-_", b"+/"), b" \t\r\n\f\v"
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character
# commas and semicolons of an English and a Chinese keyboard, as on the page and in the Space
LABEL_SEPARATOR = re.compile(r"[,，、;；\n]")


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


class TorchEncoder(ABC):
    """Embeddings by a model in PyTorch, with the signatures of `Runtime`."""

    texts_at_once = 64  # in a forward pass; 1,000 long labels at once would take a gigabyte

    def encode_images(self, images: Iterable[Any]) -> np.ndarray:
        """Encode images.

        Args:
            images: Paths, contents of files, or Pillow images of any size and mode; at least one.

        Returns:
            (N, D) float32, L2-normalized.

        Raises:
            ValueError: A file does not decode.
        """
        import torch

        with torch.inference_mode():
            parts = [_array(self.embed_images(each)) for each in self.prepared_batches(images)]
        return np.concatenate(parts)

    def encode_texts(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        """Encode texts, in batches of similar length. Equal texts are encoded once and have equal embeddings.

        Args:
            texts: Texts, at least one, in any order.
            truncate: Whether to truncate texts longer than the model's limit. By default they raise an error.

        Returns:
            (N, D) float32, L2-normalized.

        Raises:
            ValueError: A text is too long.
        """
        import torch

        unique = sorted(dict.fromkeys(texts), key=len)
        parts = []
        with torch.inference_mode():
            for batch in self.text_batches(unique):
                parts.append(_array(self.embed_texts(self.tokenize(batch, truncate))))
        rows = {text: row for row, text in enumerate(unique)}
        return np.concatenate(parts)[[rows[text] for text in texts]]

    def text_batches(self, texts: Sequence[str]) -> Iterable[Sequence[str]]:
        """The texts in batches, in order."""
        size = self.texts_at_once
        return [texts[start : start + size] for start in range(0, len(texts), size)]

    @abstractmethod
    def prepared_batches(self, images: Iterable[Any]) -> Iterator["Tensor"]:
        """The images in batches, prepared for the model, (B, 3, S, S)."""

    @abstractmethod
    def embed_images(self, pixel_values: "Tensor") -> "Tensor":
        """Embeddings of prepared images, (B, D), L2-normalized."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str], truncate: bool = False) -> Mapping[str, "Tensor"]:
        """Token ids and mask of texts, (T, L) each."""

    @abstractmethod
    def embed_texts(self, tokens: Mapping[str, "Tensor"]) -> "Tensor":
        """Embeddings of the output of `tokenize`, (T, D), L2-normalized."""


def _array(embeddings: Any) -> np.ndarray:
    return embeddings.float().cpu().numpy()


class EndpointHandler(TorchEncoder):
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
        self.edge = max(value for value in sizes if value)
        self.logit_scale = self.model.logit_scale.exp().item()
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
            ValueError: A text has too many tokens.
        """
        import torch

        with self.lock, torch.inference_mode():
            return answer(data, self)

    def prepared_batches(self, images: Iterable[Any]) -> Iterator["Tensor"]:
        """The images in batches, as the processor prepares them, (B, 3, S, S)."""
        opened = (
            image if isinstance(image, Image.Image) else open_image(image, self.edge)
            for image in images
        )
        while batch := [*islice(opened, IMAGES_AT_ONCE)]:
            yield self.processor(images=batch, return_tensors="pt").pixel_values

    def embed_images(self, pixel_values: "Tensor") -> "Tensor":
        """Embeddings of prepared images, (B, D), L2-normalized."""
        return _unit(self.model.get_image_features(pixel_values.to(self.model.device)))

    def tokenize(self, texts: Sequence[str], truncate: bool = False) -> Mapping[str, "Tensor"]:
        """Token ids and mask of texts, (T, L) each."""
        length = self.model.config.max_text_length
        options = {"truncation": True, "max_length": length} if truncate else {}
        return self.processor(text=[*texts], return_tensors="pt", **options)

    def embed_texts(self, tokens: Mapping[str, "Tensor"]) -> "Tensor":
        """Embeddings of the output of `tokenize`, (T, D), L2-normalized."""
        inputs = {name: tensor.to(self.model.device) for name, tensor in tokens.items()}
        return _unit(self.model.get_text_features(**inputs))


def _unit(features: Any) -> "Tensor":
    embeddings = features.pooler_output
    return embeddings / embeddings.norm(dim=-1, keepdim=True)


def decode_image(content: bytes, edge: int | None) -> Image.Image:
    """Open the content of an image file, whose shorter side needs `edge` pixels, as upright 8-bit RGB."""
    return open_image(content, edge, max_pixels=MAX_PIXELS)


def answer(
    data: Any,
    model: Any,
    decode: Callable[..., Image.Image] = decode_image,
) -> list[Any] | dict[str, Any]:
    """Answer a request as [`EndpointHandler.__call__`] does.

    Args:
        data: The request.
        model: An `EndpointHandler`, or a `Runtime` of runtime_dcclip.py.
        decode: Function with the arguments of `decode_image`, such as one whose memory is bounded.

    Raises:
        BadRequest: A field is missing, empty, too large or of the wrong type.
    """
    parameters = isinstance(data, dict) and (data.get("parameters") or {})
    if not isinstance(parameters, dict) or data.get("task") not in (None, "classify", "embed"):
        raise BadRequest(
            "The request is {:.80}; send a JSON object with `inputs`, with an object as `parameters`, and as `task` "
            "classify or embed.",
            reprlib.repr(data),
        )
    inputs = data.get("inputs")
    decode = partial(decode, edge=model.edge)
    if data.get("task") == "embed":
        return _embed(inputs, model, decode)
    labels = parameters.get("candidate_labels")
    if isinstance(labels, str):
        labels = [label for label in LABEL_SEPARATOR.split(labels) if label.strip()]
    labels = [label.strip() for label in _texts("candidate_labels", labels, MAX_LABELS)]
    (template,) = _texts("template", [parameters.get("hypothesis_template") or "{}"], 1)
    if template.count("{}") != 1:
        raise BadRequest(
            "hypothesis_template is {:.80}; send a sentence with one {{}}, where the label goes.",
            reprlib.repr(template),
        )
    images = _images("inputs", inputs if isinstance(inputs, list) else [inputs], decode)
    texts = model.encode_texts([template.replace("{}", label) for label in labels])
    answers = []
    for image in images:
        logits = model.logit_scale * (texts @ model.encode_images([image])[0])
        answers.append(_ranked(labels, logits))
    return answers if isinstance(inputs, list) else answers[0]


def _ranked(labels: list[str], logits: np.ndarray) -> list[dict[str, Any]]:
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    ranked = sorted(zip(scores.tolist(), labels, strict=True), key=lambda pair: -pair[0])
    return [{"score": score, "label": label} for score, label in ranked]


def _embed(inputs: Any, model: Any, decode: Callable[[bytes], Image.Image]) -> dict[str, Any]:
    if not isinstance(inputs, dict) or not inputs or inputs.keys() - MAX_INPUTS.keys():
        raise BadRequest(
            "inputs: to embed, send an object with the lists `texts`, `images` or both."
        )
    vectors: dict[str, Any] = {}
    if "texts" in inputs:
        texts = _texts("texts", inputs["texts"], MAX_INPUTS["texts"])
        vectors["texts"] = model.encode_texts(texts).tolist()
    if "images" in inputs:
        images = _images("images", inputs["images"], decode)
        vectors["images"] = [model.encode_images([image])[0].tolist() for image in images]
    return vectors


def _bounded(field: str, values: Any, most: int) -> list[Any]:
    if not isinstance(values, list) or not 1 <= len(values) <= most:
        raise BadRequest("{} is {:.80}; send a list of 1 to {}.", field, reprlib.repr(values), most)
    return values


def _images(
    field: str, values: Any, decode: Callable[[bytes], Image.Image]
) -> Iterator[Image.Image]:
    """Check the list and decode each image when the iterator reaches it."""
    for number, value in enumerate(_bounded(field, values, MAX_INPUTS["images"])):
        try:
            yield value if isinstance(value, Image.Image) else decode(_content(value))
        except (TypeError, ValueError) as error:
            raise BadRequest(
                "{}[{}] is {:.80}, not a PNG, JPEG or WebP image of at most {:,} bytes as base64 ({}).",
                field,
                number,
                reprlib.repr(value),
                MAX_BYTES,
                getattr(error, "cause", error),  # which a server can translate
            ) from error


def _content(value: Any) -> bytes:
    """Content of a file, or of base64 with or without the prefix of a data URL and padding."""
    if len(value) > MAX_BYTES * 4 // 3 + 1000:
        raise ValueError(f"its length is {len(value):,}")
    if isinstance(value, str):
        text = value.partition(",")[2] if value.startswith("data:") else value
        content = text.encode("ascii").translate(URL_SAFE, WHITESPACE).rstrip(b"=")
        value = base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
    return bytes(value)


def _texts(field: str, values: Any, most: int) -> list[str]:
    """A list of texts that can be tokenized, and not for long."""
    for text in _bounded(field, values, most):
        if (
            not isinstance(text, str)
            or not text.strip()
            or len(text) > MAX_CHARACTERS
            or SURROGATE.search(text)
        ):
            raise BadRequest(
                "{} has {:.80}; send strings of 1 to {} characters of valid Unicode.",
                field,
                reprlib.repr(text),
                MAX_CHARACTERS,
            )
    return values

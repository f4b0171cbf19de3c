"""DC-CLIP without PyTorch: numpy, ONNX Runtime, tokenizers and Pillow encode images and texts.

from runtime_dcclip import Runtime                # in a model folder; else modeling_dcclip.runtime_dcclip
runtime = Runtime()
runtime.zero_shot("image.png", ["fox", "狗"])     # [("fox", 0.98), ("狗", 0.02)]
index = runtime.encode_images(paths)              # (N, D), L2-normalized
(query,) = runtime.encode_texts(["红苹果"])
(index @ query).argsort()[::-1][:5]               # rows of the most similar images
"""

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

try:
    from .image_dcclip import (
        EIGHT_BITS,
        ImageError,
        fit_image,
        open_image,
        open_regular,
        to_rgb,
    )
except ImportError:  # in a model folder, which is not a package
    from image_dcclip import (  # type: ignore[no-redef]
        EIGHT_BITS,
        ImageError,
        fit_image,
        open_image,
        open_regular,
        to_rgb,
    )

ImageInput = str | Path | bytes | Image.Image

# variants in order of preference, used where results.json names no best file
PREFERENCE = ("_quantized", "")
# unknown tokens of SentencePiece and of BERT; byte tokenizers know every text
UNKNOWN_TOKENS = ("<unk>", "[UNK]")
BATCH_SIZE = 32
# largest values that a config may state: widths and lengths, edges of images, logarithm of the factor on cosines
MAX_SIZE, MAX_EDGE, MAX_LOGIT_SCALE = 2**16, 2**12, 10
# steps of a tokenizer in real models replace a character by three at most
MAX_GROWTH, MODELS = 1024, ("BPE", "Unigram", "WordLevel", "WordPiece")
# fields with what a step adds: tokens of a special one, parts of a template, characters
GROWING = ("ids", "single", "content", "prepend")
RESAMPLING = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
SQUARE, SHORTEST = {"height", "width"}, {"shortest_edge"}
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")


class Runtime:
    """An exported model on the CPU. Each tower is loaded on first use.

    `dimension` is the width of its embeddings. `edge` is the length of an image's shorter side that is enough, in
    pixels; None if images are not resized.

    Args:
        folder: Model folder with config.json, preprocessor_config.json, tokenizer.json and `onnx/`. Default: the
            folder of this file.
        threads: Number of threads within one operator. Default: all cores.
        truncate_dim: Number of leading dimensions of the embeddings, in 1..projection_dim. The config's `prefixes` are
            those that the model was trained for. Default: all dimensions.

    Raises:
        ValueError: A file is missing, a field has a wrong type or is out of range, preprocessor_config.json has a
            step that this runtime does not implement, or `truncate_dim` does not fit the model.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        threads: int | None = None,
        truncate_dim: int | None = None,
    ):
        self.folder = Path(folder) if folder is not None else Path(__file__).parent
        self.config: dict = self._read("config.json")
        self.pad_token_id, self.fit = 0, None
        with _damage_named(self.folder):
            text = self.config.get("text_config") or {}
            (self.dimension,) = _numbers(self.config, "projection_dim")
            (self.max_text_length,) = _numbers(self.config, "max_text_length")
            if text.get("pad_token_id") is not None:
                (self.pad_token_id,) = _numbers(text, "pad_token_id", low=0, high=2**31)
            if self.config.get("fit") is not None:
                self.fit = _numbers(self.config, "fit", 6, float, -MAX_SIZE)
            self.preprocess = ImagePreprocessor(self._read("preprocessor_config.json"))
        self.edge = self.preprocess.edge
        for width in (self.config.get("truncate_dim"), truncate_dim):
            if width is not None:
                self.dimension = self.truncated(width).dimension
        self._threads = threads
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._loaded_tokenizer: Tokenizer | None = None

    def truncated(self, truncate_dim: int) -> "Runtime":
        """The same model, with embeddings of fewer dimensions.

        Args:
            truncate_dim: Number of leading dimensions, in 1..`dimension`.

        Raises:
            ValueError: The model has fewer dimensions.
        """
        runtime = copy.copy(self)  # which shares the loaded towers
        width = {"truncate_dim": truncate_dim}
        (runtime.dimension,) = _numbers(width, "truncate_dim", high=self.dimension)
        return runtime

    def encode_images(self, images: Sequence[ImageInput]) -> np.ndarray:
        """Encode files or Pillow images.

        Args:
            images: Paths, contents of files, or Pillow images of any size and mode. Transparent images are flattened
                onto white. A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size if that is not smaller than the
                model's input, as in an index.

        Returns:
            (N, D) float32, L2-normalized.

        Raises:
            ValueError: `images` is a single image or holds something else, or a file does not decode.
        """
        _require_list("images", images)
        self._session("vision")
        embeddings = []
        for batch in _batches(images):
            pixels = np.stack([*map(self.preprocess, batch)])
            embeddings.append(self._run("vision", pixel_values=pixels))
        return self._stack(embeddings)

    def encode_texts(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        """Encode Chinese or English texts.

        Args:
            texts: Texts to encode, in any order and of any length up to `max_text_length` tokens.
            truncate: Whether to truncate longer texts. By default they raise an error.

        Returns:
            (N, D) float32, L2-normalized.

        Raises:
            ValueError: A text is too long.
        """
        _require_list("texts", texts)
        ids = [self._tokenize(text, truncate) for text in texts]
        # batches of texts of similar length need less padding
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        ordered = [ids[number] for number in order]
        embeddings = self._stack([*map(self._encode_ids, _batches(ordered))])
        embeddings[order] = embeddings.copy()
        return embeddings

    def zero_shot(
        self, image: ImageInput, labels: Sequence[str], template: str = "{}", truncate: bool = False
    ) -> list[tuple[str, float]]:
        """Rank labels for an image.

        Args:
            image: Path, content of a file, or Pillow image.
            labels: One or more candidate labels, in Chinese, English or both.
            template: Text around each label, with `{}` for the label.
            truncate: Whether to truncate texts longer than `max_text_length` tokens.

        Returns:
            (label, score) pairs, highest score first; the scores sum to 1.

        Raises:
            ValueError: `labels` or one of them is empty, the template has no `{}`, or a text is too long.
        """
        _require_list("labels", labels or "")
        if "" in map(str.strip, map(str, labels)):
            raise ValueError("labels: one is empty. Write a word or a sentence for each label.")
        if "{}" not in template:
            raise ValueError(
                f"template: {template!r} has no {{}}. Write {{}} where the label goes."
            )
        texts = self.encode_texts([template.replace("{}", label) for label in labels], truncate)
        logits = self.logit_scale * (texts @ self.encode_images([image])[0])
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        ranked = zip(labels, scores.tolist(), strict=True)
        return sorted(ranked, key=lambda pair: -pair[1])

    @property
    def logit_scale(self) -> float:
        """Learned factor on cosine similarities."""
        stored: dict[str, Any] = self._session("text").get_modelmeta().custom_metadata_map
        with suppress(KeyError, ValueError):  # refused below
            stored["logit_scale"] = float(stored["logit_scale"])
        low, high = math.exp(-MAX_LOGIT_SCALE), math.exp(MAX_LOGIT_SCALE)
        return _numbers(stored, "logit_scale", 1, float, low, high)[0]

    @property
    def rotation(self) -> np.ndarray | None:
        """Rotation from the teacher's embedding space to the model's own, (projection_dim, projection_dim) float32.

        It multiplies row vectors from the right. None if the spaces are the same.

        Raises:
            ValueError: The folder lacks model.safetensors, which holds the matrix, or it is damaged.
        """
        if self.config.get("rotation") is None:
            return None
        from safetensors import safe_open  # here, because most models have no rotation

        path = self._path("model.safetensors")
        with _damage_named(path), safe_open(path, "numpy") as tensors:
            return tensors.get_tensor("rotation").astype(np.float32)

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text, special tokens included. `truncate` cuts it after `max_text_length`."""
        return len(self._tokenizer.encode(_valid(text)).ids)

    def unknown_parts(self, text: str) -> list[str]:
        """Parts of a text that are not in the vocabulary, each once. Emoji and rare characters all have one token."""
        text = _valid(text)
        encoding = self._tokenizer.encode(text)
        found: list[str] = []
        for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
            if token in UNKNOWN_TOKENS and text[start:end] not in found:
                found.append(text[start:end])
        return found

    def file(self, tower: str) -> Path:
        """Path of the ONNX file that a tower runs from.

        Returns:
            The file that results.json names as the best on a CPU; without it, the first variant in `PREFERENCE` that
            the folder has. `tower` is `vision` or `text`.
        """
        names = [f"onnx/{tower}_model{suffix}.onnx" for suffix in PREFERENCE]
        if (self.folder / "results.json").exists():
            results = self._read("results.json")
            with _damage_named(self.folder / "results.json"):
                export = results.get("meta", {}).get("export")  # None of an evaluation
                if export is not None:
                    names.insert(0, _file_of_export(export["best"][tower]))
        found = (name for name in names if (self.folder / name).is_file())
        return self._path(next(found, names[-1]))

    def _session(self, tower: str) -> onnxruntime.InferenceSession:
        if tower not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            if self._threads is not None:
                options.intra_op_num_threads = self._threads
            path = self.file(tower)
            with _damage_named(path):
                self._sessions[tower] = onnxruntime.InferenceSession(
                    str(path), options, providers=["CPUExecutionProvider"]
                )
        return self._sessions[tower]

    def _read(self, name: str) -> dict:
        path = self._path(name)
        with _damage_named(path):
            return {} | json.loads(path.read_text(encoding="utf-8"))

    def _path(self, name: str) -> Path:
        """Path of a file of the folder. Reading a pipe or a device may never end."""
        path = self.folder / name
        if not path.is_file():
            raise ValueError(
                f"folder: {str(self.folder)!r} has no file {name}. Pass the folder of an exported model, as "
                "training/export.py writes it."
            )
        return path

    def _run(self, tower: str, **inputs: np.ndarray) -> np.ndarray:
        session = self._session(tower)
        with _damage_named(self.folder):
            return session.run(None, inputs)[0]

    @property
    def _tokenizer(self) -> Tokenizer:
        if self._loaded_tokenizer is None:
            path = self._path("tokenizer.json")
            with _damage_named(path):
                tokenizer = read_tokenizer(path)
            tokenizer.no_padding()
            tokenizer.no_truncation()
            self._loaded_tokenizer = tokenizer  # when it is ready for other threads
        return self._loaded_tokenizer

    def _tokenize(self, text: str, truncate: bool) -> list[int]:
        encoding = self._tokenizer.encode(_valid(text))
        ids = encoding.ids
        if not ids:
            raise ValueError(
                f"texts: {text[:40]!r} has no token of this model's tokenizer.json. Use different words, or copy the "
                "file again."
            )
        if len(ids) <= self.max_text_length:
            return ids
        if not truncate:
            raise ValueError(
                f"texts: {text[:40]!r}... has {len(ids)} tokens; this model accepts at most {self.max_text_length}. "
                "Shorten the text, or in Python pass truncate=True."
            )
        # the tokenizer's own truncation is one setting for all threads
        end = encoding.special_tokens_mask[::-1].index(0)  # closing special tokens
        return ids[: self.max_text_length - end] + ids[len(ids) - end :]

    def _stack(self, batches: list[np.ndarray]) -> np.ndarray:
        """Embeddings of all batches, truncated to `dimension` and normalized again, (N, dimension) float32."""
        if not batches:
            return np.zeros((0, self.dimension), np.float32)
        embeddings = np.concatenate(batches)
        if not np.isfinite(embeddings).all():
            raise ValueError(
                f"model: {str(self.folder)!r} gives embeddings that are not finite. Export it again."
            )
        if embeddings.shape[1] != self.config["projection_dim"]:
            raise ValueError(
                f"model: {str(self.folder)!r} gives embeddings of {embeddings.shape[1]} dimensions, and its config "
                f"states {self.config['projection_dim']}. Copy or export the model again."
            )
        if embeddings.shape[1] == self.dimension:
            return embeddings
        leading = embeddings[:, : self.dimension]
        norms = np.linalg.norm(leading, axis=1, keepdims=True)
        return leading / np.maximum(norms, 1e-6)

    def _encode_ids(self, ids: Sequence[list[int]]) -> np.ndarray:
        input_ids = np.full((len(ids), max(map(len, ids))), self.pad_token_id, np.int64)  # (B, L)
        attention_mask = np.zeros_like(input_ids)
        for row, tokens in enumerate(ids):
            input_ids[row, : len(tokens)] = tokens
            attention_mask[row, : len(tokens)] = 1
        return self._run("text", input_ids=input_ids, attention_mask=attention_mask)


class ImagePreprocessor:
    """Resize, center crop and normalize images.

    The resize is Pillow's. The image processors of transformers resize with torch, which differs by at most 1 of 255
    in most pixels: the cosine similarity of the two embeddings is above 0.999.

    Args:
        config: Content of preprocessor_config.json, with resize, center crop, rescale and normalize as its only steps.

    Raises:
        ValueError: The config has an unsupported step, size or filter.
    """

    def __init__(self, config: dict):
        size = config.get("size") if config.get("do_resize") else None
        crop = config.get("crop_size") if config.get("do_center_crop") else None
        self.resample = config.get("resample", Image.Resampling.BILINEAR)
        flags = {name: value for name, value in config.items() if name.startswith("do_") and value}
        steps = {name if flags[name] is True else f"{name} = {flags[name]!r}" for name in flags}
        if (
            steps - {*STEPS}
            or ("do_resize" in steps and {*(size or ())} not in (SQUARE, SHORTEST))
            or ("do_center_crop" in steps and {*(crop or ())} != SQUARE)
            or self.resample not in RESAMPLING
        ):
            raise ValueError(
                f"preprocessor_config.json: {', '.join(sorted(steps))} with size {size}, crop_size {crop} and "
                f"resample {self.resample}; this runtime supports {', '.join(STEPS)}, with a size of shortest_edge "
                "or of height and width, a crop_size of height and width, and resample 2 or 3."
            )
        self.size, self.crop = _edges(size), _edges(crop)
        self.edge = max(self.size.values(), default=None)
        mean, std, factor = [0.0] * 3, [1.0] * 3, 1.0
        if config.get("do_normalize"):
            mean = _numbers(config, "image_mean", 3, float, -MAX_SIZE)
            std = _numbers(config, "image_std", 3, float, 1e-6)
        if config.get("do_rescale"):
            factors = {"rescale_factor": 1 / EIGHT_BITS} | config
            (factor,) = _numbers(factors, "rescale_factor", 1, float, 1e-6)
        self.mean, self.std = (
            np.array(each, np.float32)[:, None, None] / np.float32(factor) for each in (mean, std)
        )

    def __call__(self, image: ImageInput) -> np.ndarray:
        """Preprocess one image.

        Returns:
            (3, height, width) float32.
        """
        fitted = fit_image(open_rgb(image, self.edge), self.size, self.crop, self.resample)
        pixels = np.asarray(fitted, np.float32).transpose(2, 0, 1)  # (3, height, width)
        return (pixels - self.mean) / self.std


def _edges(size: dict[str, Any] | None) -> dict[str, int]:
    """Checked lengths of edges by their names; none without a size."""
    size = size or {}
    return {edge: _numbers(size, edge, high=MAX_EDGE)[0] for edge in size}


def open_rgb(image: ImageInput, edge: int | None = None) -> Image.Image:
    """Open an image as RGB, as in training: upright, 8 bits, transparent ones flattened onto white.

    Args:
        image: Path, content of a file, or Pillow image.
        edge: Length of the shorter side that is enough, in pixels: a JPEG file is decoded as for an index. Default:
            full size.

    Raises:
        ValueError: The file does not decode; the message names it.
        OSError: The file does not exist.
    """
    if isinstance(image, Image.Image):
        return to_rgb(image)
    try:
        return open_image(image, edge, gap=1)
    except ImageError as error:
        name = repr(str(image)) if isinstance(image, (str, Path)) else type(image).__name__
        raise ValueError(
            f"image: {name} does not decode ({error}). Pass a path, the content of a file, or a Pillow image, such "
            "as PIL.Image.fromarray(array)."
        ) from error


@dataclass(frozen=True)
class Lineage:
    """Where the embeddings of a model come from, which tells whose embeddings they can be compared with.

    Args:
        model: Hub id of the model, or its folder.
        weights: Fingerprint of its weights, or their commit; None if it is unknown.
        teacher: Name of the teacher whose space it has; None if it has no teacher.
        teacher_weights: Fingerprint of the teacher's weights; None if the embeddings are not in the teacher's space.
        rotation: Digest of the rotation from the teacher's space to this one; None if they are the same.
    """

    model: str
    weights: str | None
    teacher: str | None
    teacher_weights: str | None
    rotation: str | None

    def rotations(self, other: "Lineage") -> tuple[str | None, str | None] | None:
        """Digests of the rotations from a common space to this one and to the other, None for an identity.

        The spaces are the same for one model, for students of one teacher, and for a teacher and its student. For all
        other pairs, the result is None.
        """
        if self.weights is not None and self.weights == other.weights:
            return None, None
        if self.teacher_weights is not None and self.teacher_weights == other.teacher_weights:
            return self.rotation, other.rotation
        if self._taught(other):
            return None, other.rotation
        return (self.rotation, None) if other._taught(self) else None

    def _taught(self, student: "Lineage") -> bool:
        """Whether a student has the space of this model: by weights, or by name if they are a commit of the Hub."""
        if student.teacher_weights is None:
            return False
        return self.weights == student.teacher_weights or self.model == student.teacher


def digest_files(files: Sequence[Path]) -> str:
    """Digest of files of a model and their names, 16 hexadecimal digits, which identifies its weights."""
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        with open_regular(path) as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, hashlib.blake2b).digest())
    return digest.hexdigest()


def _file_of_export(name: Any) -> str:
    """Name of a file that an export wrote; a stranger's results.json may name any."""
    if not (isinstance(name, str) and name.startswith("onnx/") and ".." not in name):
        raise ValueError(f"best: {name!r:.60} is not a file of the folder onnx/")
    return name


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json.

    Raises:
        ValueError: It is damaged, or its steps lengthen texts beyond measure, which would take all memory.
    """
    with open_regular(path) as file:
        content = file.read()
    if (growth := _growth(json.loads(content))) > MAX_GROWTH:
        raise ValueError(f"it makes a text {growth} times as long, expected at most {MAX_GROWTH}")
    try:
        return Tokenizer.from_str(content.decode("utf-8"))
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:  # a panic of Rust, as on a damaged table of characters
        raise ValueError(str(error)) from error


def _growth(node: Any) -> int:
    """How many times as long the steps of a tokenizer make a text at most, in characters or tokens."""
    if isinstance(node, list):
        return math.prod(map(_growth, node))
    if not isinstance(node, dict) or node.get("type") in MODELS:
        return 1
    names = GROWING if "type" in node else GROWING[:1]
    added = [node[name] for name in names if isinstance(node.get(name), (str, list))]
    return max([1, *map(len, added)]) * math.prod(map(_growth, node.values()))


def _numbers(
    fields: dict[str, Any],
    name: str,
    count: int = 1,
    kind: type = int,
    low: float = 1,
    high: float = MAX_SIZE,
) -> list[Any]:
    """Numbers of a config in low..high: a list of `count`, or one number alone."""
    value: Any = fields.get(name)
    values = [*value] if isinstance(value, (list, tuple)) else [value]
    if len(values) != count or not all(
        type(each) in (int, kind) and low <= each <= high for each in values
    ):
        raise ValueError(
            f"{name}: the model has {value!r}, expected {count} of {kind.__name__} in {low:g}..{high:g}. Copy or "
            "export the model again."
        )
    return values


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Name the file of any error: tokenizers and ONNX Runtime raise kinds of their own."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"folder: {str(path)!r} is damaged, or cannot run on this machine ({reason}). Copy the model again, or "
            "export it in fp32, which every machine can run."
        ) from error


def _require_list(name: str, values: Any):
    if isinstance(values, (str, Path, bytes, Image.Image)):
        raise ValueError(f"{name}: got a single one or none; pass a list of {name}.")


def _valid(text: str) -> str:
    """The text, if a tokenizer can encode it.

    Raises:
        ValueError: It is not a string, or has half a surrogate pair, as of bytes that are not UTF-8.
    """
    try:
        text.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        raise ValueError(f"texts: {text!r} is not a string of Unicode. Pass other text.") from error
    return text


def _batches(items: Sequence) -> list[Sequence]:
    return [items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE)]

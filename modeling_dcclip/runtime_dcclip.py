"""DC-CLIP without PyTorch: needs numpy, onnxruntime, tokenizers and Pillow, and the folder that it lies in.

python runtime_dcclip.py image.png --labels 狐狸 狗 猫

from runtime_dcclip import Runtime
runtime = Runtime()
runtime.zero_shot("image.png", ["fox", "狗"])        # [("fox", 0.98), ("狗", 0.02)]
index = runtime.encode_images(paths)                 # (N, D), unit length
runtime.search("红苹果", index, k=5)                    # [(17, 0.41), ...]
"""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer

ImageInput = str | Path | Image.Image

# of the files that are there, which to take where results.json does not say
PREFERENCE = ("_quantized", "_fp16", "", "_q4")
BATCH_SIZE = 32
BLOCK = 16  # of resized rows or columns that are computed together
BICUBIC, BILINEAR = 3, 2  # as Pillow and preprocessor_config.json number them


class Runtime:
    """An exported model. A tower is loaded when it is first asked.

    Args:
        folder: with config.json, preprocessor_config.json, tokenizer.json and `onnx/`. Default: where this file lies.
        threads: within one operator. Default: all cores.

    Raises:
        ValueError: a file is missing, or asks for a preparation of images that is not known here.
    """

    def __init__(self, folder: str | Path | None = None, threads: int | None = None):
        self.folder = Path(folder) if folder is not None else Path(__file__).parent
        config = self._read("config.json")
        self.max_text_length: int = config["max_text_length"]
        self.pad_token_id: int = config["text_config"].get("pad_token_id") or 0
        self.preparation = Preparation(self._read("preprocessor_config.json"))
        self._threads = threads
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._loaded_tokenizer: Tokenizer | None = None

    def encode_images(self, images: Sequence[ImageInput]) -> np.ndarray:
        """Encode files or Pillow images.

        Args:
            images: paths, or images of any size and mode; transparent ones are put on white.

        Returns:
            (N, D) float32, of unit length.
        """
        session = self._session("vision")
        batches = [
            session.run(None, {"pixel_values": np.stack([self.preparation(image) for image in batch])})[0]
            for batch in _batches(images)
        ]
        return _stack(batches, session)

    def encode_texts(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        """Encode texts in either language.

        Args:
            texts: strings.
            truncate: cut a text that is too long, instead of refusing it.

        Returns:
            (N, D) float32, of unit length.

        Raises:
            ValueError: a text is too long.
        """
        session = self._session("text")
        if isinstance(texts, str):
            raise ValueError(f"texts: got the one string {texts!r}; give a list of strings.")
        ids = [self._tokenize(text, truncate) for text in texts]
        # texts of like length go together, which saves padding
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        batches = [self._encode_ids(session, [ids[number] for number in batch]) for batch in _batches(order)]
        embeddings = _stack(batches, session)
        embeddings[order] = embeddings.copy()
        return embeddings

    def zero_shot(
        self, image: ImageInput, labels: Sequence[str], template: str = "{}", truncate: bool = False
    ) -> list[tuple[str, float]]:
        """Which of these labels an image deserves.

        Args:
            image: a path or a Pillow image.
            labels: at least one, in either language or both.
            template: a sentence around each label, with one `{}`.
            truncate: as in `encode_texts`.

        Returns:
            (label, share), the best first; the shares add up to 1.
        """
        if not labels:
            raise ValueError("labels: none given. Name at least one.")
        texts = self.encode_texts([template.replace("{}", label) for label in labels], truncate)
        logits = self.logit_scale * (texts @ self.encode_images([image])[0])
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        return [(labels[number], float(shares[number])) for number in np.argsort(-shares, kind="stable")]

    def search(self, query: ImageInput | np.ndarray, index: np.ndarray, k: int = 10) -> list[tuple[int, float]]:
        """The nearest rows of an index.

        Args:
            query: a text; a `Path` or a Pillow image; or an embedding (D,).
            index: (N, D) of unit length, as `encode_images` and `encode_texts` return them.
            k: how many at most.

        Returns:
            (row, cosine similarity), the nearest first.
        """
        if isinstance(query, str):
            (query,) = self.encode_texts([query])
        elif not isinstance(query, np.ndarray):
            (query,) = self.encode_images([query])
        cosines = index @ query
        return [(int(row), float(cosines[row])) for row in np.argsort(-cosines, kind="stable")[:k]]

    @property
    def logit_scale(self) -> float:
        """The factor on cosine similarities, as the model learnt it."""
        return float(self._session("text").get_modelmeta().custom_metadata_map["logit_scale"])

    def file(self, tower: str) -> Path:
        """The graph that a tower (`vision` or `text`) runs from: what results.json found best on a CPU, or else the
        first of `PREFERENCE` that is there.
        """
        return self._files(tower)[0]

    def _files(self, tower: str) -> list[Path]:
        results = self.folder / "results.json"
        best = {}
        if results.exists():
            best = json.loads(results.read_text(encoding="utf-8"))["meta"].get("export", {}).get("best", {})
        names = [best[tower]] if tower in best else []
        names += [f"onnx/{tower}_model{suffix}.onnx" for suffix in PREFERENCE]
        files = [path for name in dict.fromkeys(names) if (path := self.folder / name).exists()]
        if not files:
            raise ValueError(
                f"folder: {str(self.folder)!r} has no onnx/{tower}_model*.onnx. Export it: python training/export.py "
                "FOLDER --output_dir FOLDER."
            )
        return files

    def _session(self, tower: str) -> onnxruntime.InferenceSession:
        """Open the best graph that this machine can run."""
        if tower in self._sessions:
            return self._sessions[tower]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        refusals = []
        for path in self._files(tower):
            try:
                session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as error:  # ONNX Runtime's own kinds share no base class
                refusals.append(f"{path.name}: {str(error).strip().splitlines()[0]}")
                continue
            if refusals:
                warnings.warn(f"this machine runs {path.name} in place of {'; '.join(refusals)}", stacklevel=3)
            self._sessions[tower] = session
            return session
        raise ValueError(
            f"folder: onnxruntime {onnxruntime.__version__} can run no {tower} tower of {str(self.folder)!r} on this "
            f"machine ({'; '.join(refusals)}). Export it as fp32, which every machine runs."
        )

    def _read(self, name: str) -> dict:
        path = self.folder / name
        if not path.exists():
            raise ValueError(f"folder: {str(self.folder)!r} has no {name}. Name an exported model's folder.")
        return json.loads(path.read_text(encoding="utf-8"))

    @property
    def _tokenizer(self) -> Tokenizer:
        if self._loaded_tokenizer is None:
            path = self.folder / "tokenizer.json"
            if not path.exists():
                raise ValueError(f"folder: {str(self.folder)!r} has no tokenizer.json.")
            self._loaded_tokenizer = Tokenizer.from_file(str(path))
            self._loaded_tokenizer.no_padding()
        return self._loaded_tokenizer

    def _tokenize(self, text: str, truncate: bool) -> list[int]:
        tokenizer = self._tokenizer
        if truncate:
            tokenizer.enable_truncation(self.max_text_length)
        else:
            tokenizer.no_truncation()
        ids = tokenizer.encode(text).ids
        if len(ids) > self.max_text_length:
            raise ValueError(
                f"texts: {text[:40]!r}... has {len(ids)} tokens, this model reads at most {self.max_text_length}. "
                "Shorten it, or pass truncate=True."
            )
        return ids

    def _encode_ids(self, session: onnxruntime.InferenceSession, ids: list[list[int]]) -> np.ndarray:
        input_ids = np.full((len(ids), max(map(len, ids))), self.pad_token_id, np.int64)  # (B, L)
        attention_mask = np.zeros_like(input_ids)
        for row, tokens in enumerate(ids):
            input_ids[row, : len(tokens)] = tokens
            attention_mask[row, : len(tokens)] = 1
        return session.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})[0]


class Preparation:
    """An image as the model's image processor prepares it.

    Args:
        config: preprocessor_config.json of a transformers image processor that resizes, crops the centre, rescales and
            normalises.

    Raises:
        ValueError: it does something else.
    """

    def __init__(self, config: dict):
        unknown = [name for name, value in config.items() if name.startswith("do_") and value and name not in STEPS]
        if unknown:
            raise ValueError(f"preprocessor_config.json: {', '.join(unknown)} is not known to this runtime.")
        self.size = config["size"] if config.get("do_resize") else None
        self.crop = config["crop_size"] if config.get("do_center_crop") else None
        self.filter = {BICUBIC: _bicubic, BILINEAR: _bilinear}.get(config.get("resample", BILINEAR))
        if self.size is not None and (self.filter is None or not {"shortest_edge", "height"} & set(self.size)):
            raise ValueError(
                f"preprocessor_config.json: size {self.size} with resample {config.get('resample')} is not known to "
                "this runtime, which knows shortest_edge, or height and width, bicubic (3) or bilinear (2)."
            )
        factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale") else 1.0
        normalises = config.get("do_normalize")
        mean, std = (config["image_mean"], config["image_std"]) if normalises else ([0, 0, 0], [1, 1, 1])
        self.mean, self.std = (np.array(each, np.float32)[:, None, None] / np.float32(factor) for each in (mean, std))

    def __call__(self, image: ImageInput) -> np.ndarray:
        """(3, height, width) float32."""
        pixels = np.ascontiguousarray(np.asarray(open_rgb(image)).transpose(2, 0, 1))  # (3, H, W)
        height, width = pixels.shape[1:]
        new_height, new_width = self._new_size(height, width)
        rows, columns = self._window(new_height, new_width)
        pixels = _resize(pixels, 2, new_width, columns, self.filter)
        pixels = _resize(pixels, 1, new_height, rows, self.filter)
        return (pixels - self.mean) / self.std

    def _new_size(self, height: int, width: int) -> tuple[int, int]:
        if self.size is None:
            return height, width
        if "height" in self.size:
            return self.size["height"], self.size["width"]
        edge, shortest = self.size["shortest_edge"], min(height, width)
        return (edge, int(edge * width / height)) if shortest == height else (int(edge * height / width), edge)

    def _window(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns that the crop keeps: no others are computed."""
        if self.crop is None:
            return slice(0, height), slice(0, width)
        if self.crop["height"] > height or self.crop["width"] > width:
            raise ValueError(
                f"preprocessor_config.json: crop_size {self.crop} is larger than the resized image, {height} x "
                f"{width}."
            )
        top, left = (height - self.crop["height"]) // 2, (width - self.crop["width"]) // 2
        return slice(top, top + self.crop["height"]), slice(left, left + self.crop["width"])


STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")


def open_rgb(image: ImageInput) -> Image.Image:
    """Any image as RGB: turned as its camera says if it is a file, and on white where it is transparent."""
    if not isinstance(image, Image.Image):
        with Image.open(image) as file:
            image = ImageOps.exif_transpose(file)
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _bicubic(distance: np.ndarray) -> np.ndarray:
    distance = np.abs(distance)
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


def _bilinear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(distance), 0.0)


SUPPORT = {_bicubic: 2.0, _bilinear: 1.0}


def _resize(pixels: np.ndarray, axis: int, size: int, window: slice, weigh) -> np.ndarray:
    """Resize one axis, to the very numbers that torchvision gives for 8-bit images.

    Pillow's own resize differs from it by one step of 255 in a few pixels, as its weights have more bits.

    Args:
        pixels: (3, H, W) uint8.
        axis: 1 or 2.
        size: of the whole resized axis.
        window: which part of it is wanted.
        weigh: the filter.

    Returns:
        (3, H, W) uint8, with the window's length on that axis.

    Source: aten/src/ATen/native/cpu/UpSampleKernel.cpp of PyTorch 2.13 (weights of 16 bits, sums of 32).
    """
    old = pixels.shape[axis]
    if old == size:
        return pixels[:, window] if axis == 1 else pixels[:, :, window]
    first, weights, precision = _weights(old, size, window, weigh)
    parts = []
    for start in range(0, len(first), BLOCK):  # a matrix product, in which double precision is exact
        begins, taps = first[start : start + BLOCK], weights[start : start + BLOCK]
        low, high = begins[0], min(begins[-1] + taps.shape[1], old)
        matrix = np.zeros((len(taps), high - low + taps.shape[1]))  # (block, source), with room for weights of 0
        matrix[np.arange(len(taps))[:, None], begins[:, None] - low + np.arange(taps.shape[1])] = taps
        matrix = matrix[:, : high - low]
        source = (pixels[:, low:high] if axis == 1 else pixels[:, :, low:high]).astype(np.float64)
        total = matrix @ source if axis == 1 else source @ matrix.T
        parts.append(np.floor(total / 2**precision + 0.5).clip(0, 255).astype(np.uint8))
    return np.concatenate(parts, axis)


def _weights(old: int, size: int, window: slice, weigh) -> tuple[np.ndarray, np.ndarray, int]:
    """First source pixel (window,), whole weights (window, taps), and by how many bits their sum is too large."""
    scale = old / size
    stretch = max(scale, 1.0)
    support = SUPPORT[weigh] * stretch
    centre = scale * (np.arange(size) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), old) - first
    taps = np.arange(count.max())
    weights = weigh((first[:, None] + taps - centre[:, None] + 0.5) / stretch)
    weights[taps >= count[:, None]] = 0.0
    weights /= weights.sum(1, keepdims=True)
    # as many bits as the largest weight leaves room for in 16
    precision = next(bits for bits in range(23) if bits == 22 or int(0.5 + weights.max() * 2 ** (bits + 1)) >= 1 << 15)
    scaled = weights * 2**precision
    return first[window], np.trunc(scaled + np.copysign(0.5, scaled))[window], precision


def _batches(items: Sequence) -> list[Sequence]:
    return [items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE)]


def _stack(batches: list[np.ndarray], session: onnxruntime.InferenceSession) -> np.ndarray:
    width = session.get_outputs()[0].shape[-1]
    return np.concatenate(batches) if batches else np.zeros((0, width), np.float32)


def main(argv: list[str] | None = None):
    """Label images."""
    parser = argparse.ArgumentParser(description="Label images in Chinese or English, without PyTorch.")
    parser.add_argument("images", nargs="+", help="files")
    parser.add_argument("--labels", nargs="+", required=True, help="in either language")
    parser.add_argument("--template", default="{}", help="a sentence around each label, such as 一张{}的照片")
    parser.add_argument("--folder", help="of the exported model; default: where this file lies")
    options = parser.parse_args(argv)
    try:
        runtime = Runtime(options.folder)
        for image in options.images:
            answers = runtime.zero_shot(image, options.labels, options.template)
            print("\t".join([image, *(f"{label} {share:.3f}" for label, share in answers)]))
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()

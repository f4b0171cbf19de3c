"""Label a folder of images, and write one row of a CSV file for each image."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from modeling_dcclip.image_dcclip import ImageError
from training.data import open_image
from training.evaluation.classify import class_embeddings
from training.evaluation.encoder import find_processes
from training.evaluation.options import EvalOptions
from training.evaluation.sets.class_names import read_lines
from training.evaluation.sets.sources import IMAGE_SUFFIXES, list_images
from training.evaluation.zero_shot_model import ZeroShotModel
from training.utils.files import write_text

COLUMNS = ("path", "label", "score", "top_k", "error")
BATCH_SIZE = 64
DECIMALS = 6


def write_predictions(options: EvalOptions) -> str:
    """Label all images of a folder and write the CSV file. Return a message with counts and the path of the file.

    The columns are the same for every run: `path` relative to the folder, `label` with the highest score, its `score`,
    `top_k` as a JSON list of [label, score], the highest score first, and `error`. A score is the share (0..1) of a
    label among the candidates. An image that cannot be decoded has a row with only `path` and `error`.

    Raises:
        ValueError: The folder has no images, a label is empty or repeated, the file exists or cannot be written, no
            image can be decoded, or the model has no logit scale.
    """
    folder, output = Path(str(options.predict)).expanduser(), Path(str(options.output))
    labels, paths = read_labels(options.labels), list_images(folder)
    if not paths:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"predict: {str(folder)!r} is not a folder with images ({suffixes}). Name one.")
    _check_output(output, options.overwrite)
    model = ZeroShotModel.from_pretrained(options.model[0], trust_remote_code=options.trust_remote_code)
    model.to(find_processes().device)
    rows = list(predict(model, folder, paths, labels, options.top_k))
    num_damaged = sum(bool(row[-1]) for row in rows)
    if num_damaged == len(rows):
        raise ValueError(f"predict: none of the {len(rows)} images of {str(folder)!r} decodes: {rows[0][-1]}")
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows([COLUMNS, *rows])
    write_text(output, content.getvalue())
    damaged = f", {num_damaged} could not be decoded (column error)" if num_damaged else ""
    return f"{len(rows) - num_damaged} images labelled{damaged}\n\n{output}"


def _check_output(output: Path, overwrite: bool):
    """Refuse a file that exists, or that cannot be written, before any image is labelled."""
    if output.exists() and (output.is_dir() or not overwrite):
        raise ValueError(f"output: {str(output)!r} exists. Name another file, or add --overwrite to replace a file.")
    parent = next(path for path in output.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"output: {str(output)!r} cannot be written in {str(parent)!r}. Name a file elsewhere.")


def read_labels(labels: Sequence[str]) -> list[str]:
    """Candidate labels: the given ones, or the lines of one .txt file.

    Raises:
        ValueError: The file cannot be read, a label is empty or repeated, or there are fewer than two.
    """
    listed = list(labels)
    if len(listed) == 1 and listed[0].endswith(".txt"):
        listed = read_lines(Path(listed[0]), "labels")
    if not all(label.strip() for label in listed) or len(set(listed)) < max(2, len(listed)):
        raise ValueError(f"labels: need at least two different names, got {listed[:20]}. Change them.")
    return listed


def predict(
    model: ZeroShotModel, folder: Path, paths: Sequence[Path], labels: Sequence[str], top_k: int = 5
) -> Iterator[tuple[str, str, str, str, str]]:
    """Label the images `paths` in `folder`, and yield a row with the fields of `COLUMNS` for each, in order.

    Raises:
        ValueError: The model has no logit scale.
    """
    logit_scale = getattr(model.model, "logit_scale", None)
    if logit_scale is None:
        raise ValueError(f"model: {model.name!r} has no logit_scale, which turns cosines into scores. Name another.")
    classes = class_embeddings(model, labels)  # (C, D)

    def prepare(path: Path) -> Tensor | str:
        try:
            return model.images.fit(open_image({"bytes": None, "path": str(path)}))
        except (OSError, ImageError) as error:
            return " ".join(str(error).replace(str(path), path.name).split()) or type(error).__name__

    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), desc="images", unit="image", leave=False) as progress:
        for start in range(0, len(paths), BATCH_SIZE):
            batch = paths[start : start + BATCH_SIZE]
            prepared = list(pool.map(prepare, batch))
            images = [image for image in prepared if isinstance(image, Tensor)]
            scores: Iterator[Tensor] = iter(())
            if images:
                pixels = torch.stack(images).permute(0, 3, 1, 2)  # (B, S, S, 3) -> (B, 3, S, S)
                embeddings = model.embed_images(model.images.normalize(pixels.to(model.model.device))).cpu()
                scores = iter((logit_scale.exp().item() * embeddings @ classes.T).softmax(1))  # (C,) each
            for path, image in zip(batch, prepared, strict=True):
                # a name need not be UTF-8, such as one from a Chinese zip file
                name = os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")
                yield (name, "", "", "", image) if isinstance(image, str) else _row(name, next(scores), labels, top_k)
            progress.update(len(batch))


def _row(name: str, scores: Tensor, labels: Sequence[str], top_k: int) -> tuple[str, str, str, str, str]:
    order = scores.argsort(descending=True, stable=True)[:top_k].tolist()
    best = [[labels[number], round(scores[number].item(), DECIMALS)] for number in order]
    return name, best[0][0], f"{best[0][1]:.{DECIMALS}f}", json.dumps(best, ensure_ascii=False), ""

"""Retrieval and zero-shot accuracy of truncated embeddings of a model."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data import load_source
from training.engine.rotation import axes_of
from training.studies.teachers.features import Captions, ModelEncoder, batches_of, first_rows, recall_at_10, stored
from training.studies.teachers.heads import contrast, train
from training.studies.teachers.options import WidthsOptions
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.results import Results, Row, make_meta

BATCH_SIZE, RATE = 512, 1e-4
PROMPTS = {"en": "a photo of a {}.", "zh": "一张{}的照片。"}


class Embeddings:
    """Embeddings of all images, captions and class names, (N, D) float32 each.

    Args:
        options: Options of the command.
    """

    def __init__(self, options: WidthsOptions):
        folder, model = Path(options.output_dir, "features"), ModelEncoder(options.model)
        rows = {"train": first_rows(options.train, options.num_images), "validation": load_source(options.validation)}
        classes = load_source(options.class_images)
        step = max(1, len(classes) // options.num_class_images)
        names = sorted(set(zip(classes["en"], classes["zh"], strict=True)))
        numbers = {pair: number for number, pair in enumerate(names)}
        chosen = classes.select(range(0, len(classes), step))
        self.labels = torch.tensor([numbers[pair] for pair in zip(chosen["en"], chosen["zh"], strict=True)])
        self.captions = {name: Captions.of(part) for name, part in rows.items()}
        self.images, self.texts = {}, {}
        for name, part in (rows | {"classes": chosen}).items():
            self.images[name] = stored(folder / f"{name}_images.safetensors", partial(model.images, part))
        for name, captions in self.captions.items():
            self.texts[name] = stored(folder / f"{name}_texts.safetensors", partial(model.texts, captions.texts))
        self.names = {
            language: model.texts([PROMPTS[language].format(pair[number]) for pair in names]).float()
            for number, language in enumerate(LANGUAGES)
        }
        self.logit_scale = model.logit_scale


class Maps(nn.Module):
    """A square matrix for each modality, which multiplies row vectors from the right.

    Args:
        image: Matrix of images, (D, D).
        text: Matrix of texts, (D, D).
    """

    def __init__(self, image: Tensor, text: Tensor):
        super().__init__()
        self.image, self.text = nn.Parameter(image.clone()), nn.Parameter(text.clone())


def measure_widths(options: WidthsOptions, program: str) -> Results:
    """Measure each width, and write results.json.

    Args:
        options: Options of the command.
        program: Command as users type it, without options.
    """
    torch.set_num_threads(1)
    found = Embeddings(options)
    width = found.images["train"].shape[1]
    results = Results(make_meta(options.validation, None, command_of(program, options), model=options.model))
    rotation = axes_of(found.images["train"], found.texts["train"])
    same = torch.eye(width)
    results.rows += _rows(found, Maps(same, same), options, "as trained", None)
    results.rows += _rows(found, Maps(rotation, rotation), options, "rotated", None)
    for seed in options.seeds:
        maps = Maps(rotation, rotation)
        _align(maps, found, options, seed)
        results.rows += _rows(found, maps, options, "rotated, aligned at each width", seed)
    results.write(options.output_dir)
    return results


def _align(maps: Maps, found: Embeddings, options: WidthsOptions, seed: int):
    images, texts, captions = found.images["train"], found.texts["train"], found.captions["train"]
    epochs = 1 + options.steps * BATCH_SIZE // max(1, len(images) - BATCH_SIZE)

    def loss_of(batch: Tensor) -> Tensor:
        image = F.normalize(images[captions.owners[batch]], dim=1) @ maps.image
        text = F.normalize(texts[batch], dim=1) @ maps.text
        losses = [contrast(image[:, :width], text[:, :width], found.logit_scale) for width in options.widths]
        return torch.stack(losses).mean()

    train(maps, batches_of(captions, BATCH_SIZE, epochs, seed), options.steps, loss_of, RATE)


@torch.no_grad()
def _rows(found: Embeddings, maps: Maps, options: WidthsOptions, name: str, seed: int | None) -> Iterator[Row]:
    images = found.images["validation"] @ maps.image
    texts, classes = found.texts["validation"] @ maps.text, found.images["classes"] @ maps.image
    for width in options.widths:
        row: dict[str, Any] = {"model": name, "protocol": f"{width} dimensions", "seed": seed}
        recall = recall_at_10(images[:, :width], texts[:, :width], found.captions["validation"])
        for language in LANGUAGES:
            yield Row(**row, set="validation", language=language, metric="t2i_recall@10", value=recall[language])
            named = F.normalize((found.names[language] @ maps.text)[:, :width], dim=1)
            best = (F.normalize(classes[:, :width], dim=1) @ named.T).argmax(1)
            top1 = (best == found.labels).float().mean().item()
            yield Row(**row, set="class_images", language=language, metric="top1", value=top1)

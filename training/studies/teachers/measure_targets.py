"""One teacher, another, both, or none: students of the same size on the same features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from training.data import load_source
from training.studies.sentence_encoder import read_sentence_encoder
from training.studies.teachers.features import (
    MAX_TOKENS,
    Captions,
    batches_of,
    first_rows,
    pooled_images,
    pooled_texts,
    recall_at_10,
    stored,
)
from training.studies.teachers.heads import LEARNING_RATE, WIDTH, Heads, contrast, train
from training.studies.teachers.options import TargetsOptions
from training.teachers import Teacher
from training.text.tokenizers import load_tokenizer
from training.utils.cli import command_of
from training.utils.results import Results, Row, make_meta

PARTS = ("train", "validation")
BATCH_SIZE = 256
FIRST, SECOND, BOTH = "e5", "USE", "e5 and USE"
# arms: name, teachers, whether their embeddings are targets, whether pairs are contrasted
ARMS = (
    ("InfoNCE alone", None, False, True),
    (f"embedding, {FIRST}", FIRST, True, False),
    (f"embedding, {SECOND}", SECOND, True, False),
    (f"embedding, {BOTH}", BOTH, True, False),
    (f"InfoNCE and embedding, {BOTH}", BOTH, True, True),
)


def encode_with_use(texts: Sequence[str]) -> Tensor:
    """Embeddings by the second teacher of captions, (N, 512) float16."""
    return read_sentence_encoder()(texts).half()


@dataclass
class Part:
    """Features of one part of the data.

    Args:
        captions: Its captions.
        images: Image features of the teachers, (N, D).
        own_images: Image features of the student, (N, D).
        texts: Text features of each teacher, (T, D).
        ids: Token ids of the student for each caption, (L,) int64 each.
        vocabulary: Number of its token ids.
    """

    captions: Captions
    images: Tensor
    own_images: Tensor
    texts: dict[str, Tensor]
    ids: list[Tensor]
    vocabulary: int


def load_parts(options: TargetsOptions) -> dict[str, Part]:
    """Features of both parts of the data.

    Args:
        options: Options of the command.
    """
    folder, tokenizer = Path(options.output_dir, "features"), load_tokenizer(options.tokenizer, "tokenizer")
    parts = {}
    for name in PARTS:
        rows = first_rows(options.train, options.num_images) if name == "train" else load_source(options.validation)
        captions = Captions.of(rows, options.num_captions)

        ids = tokenizer(captions.texts, truncation=True, max_length=MAX_TOKENS).input_ids
        parts[name] = Part(
            captions,
            stored(folder / f"{name}_teacher.safetensors", partial(_images, options.image_teacher, rows, options)),
            stored(folder / f"{name}_student.safetensors", partial(_images, options.student_images, rows, options)),
            {
                FIRST: stored(folder / f"{name}_{FIRST}.safetensors", partial(_texts, options, captions.texts)),
                SECOND: stored(folder / f"{name}_{SECOND}.safetensors", partial(encode_with_use, captions.texts)),
            },
            [torch.tensor(row) for row in ids],
            len(tokenizer),
        )
    return parts


def _images(encoder: str, rows: Dataset, options: TargetsOptions) -> Tensor:
    return pooled_images(Teacher.from_pretrained(encoder, ("vision",)), rows, options.image_size)


def _texts(options: TargetsOptions, texts: Sequence[str]) -> Tensor:
    return pooled_texts(Teacher.from_pretrained(options.text_teacher, ("text",)), texts)


def measure_targets(options: TargetsOptions, program: str) -> Results:
    """Train and measure all arms, and write results.json.

    Args:
        options: Options of the command.
        program: Command as users type it, without options.
    """
    torch.set_num_threads(1)
    parts = load_parts(options)
    results = Results(make_meta(options.validation, None, command_of(program, options), epochs=options.epochs))
    targets: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    scales: dict[str, float] = {}
    for name in (FIRST, SECOND):
        targets[name], scales[name] = train_teacher(parts, name, options)
    targets[BOTH] = {part: (_joined(targets, scales, part, 0), _joined(targets, scales, part, 1)) for part in PARTS}
    for name, both in targets.items():
        results.rows += _rows(*both["validation"], parts["validation"], f"teacher, {name}", None)
    for seed in options.seeds:
        for arm, teacher, matches, contrasts in ARMS:
            given = targets[teacher]["train"] if teacher else None
            student = train_student(parts["train"], given, matches, contrasts, options, seed)
            with torch.no_grad():
                own = parts["validation"]
                images, texts = student.image(own.own_images), student.encode_texts(own.ids)
            results.rows += _rows(images, texts, own, arm, seed)
            results.write(options.output_dir)
    return results


def _joined(
    targets: dict[str, dict[str, tuple[Tensor, Tensor]]], scales: dict[str, float], part: str, number: int
) -> Tensor:
    """Embeddings of both teachers in one space, in which logits are the mean of theirs, as in an `Ensemble`."""
    total = sum(scales.values())
    return torch.cat([(scales[name] / total) ** 0.5 * targets[name][part][number] for name in (FIRST, SECOND)], 1)


def train_teacher(
    parts: dict[str, Part], name: str, options: TargetsOptions
) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """Train the heads of one teacher by InfoNCE.

    Args:
        parts: Features of both parts of the data.
        name: Name of its text encoder.
        options: Options of the command.

    Returns:
        Normalized embeddings of images and captions of each part, and the factor on cosines.
    """
    part = parts["train"]
    torch.manual_seed(0)
    heads = Heads(part.images.shape[1], part.texts[name].shape[1])

    def loss_of(batch: Tensor) -> Tensor:
        images = heads.image(part.images[part.captions.owners[batch]])
        return contrast(images, heads.text(part.texts[name][batch]), heads.logit_scale)

    _fit(heads, part, loss_of, options, seed=0)
    with torch.no_grad():
        embeddings = {
            key: (F.normalize(heads.image(own.images), dim=1), F.normalize(heads.text(own.texts[name]), dim=1))
            for key, own in parts.items()
        }
    return embeddings, heads.logit_scale.exp().clamp(max=100).item()


def train_student(
    part: Part,
    targets: tuple[Tensor, Tensor] | None,
    matches: bool,
    contrasts: bool,
    options: TargetsOptions,
    seed: int,
) -> Heads:
    """Train one student: a head over frozen image features, and a text tower over token ids.

    Args:
        part: Training part of the data.
        targets: The teacher's embeddings of images and captions; None without a teacher.
        matches: Whether the student matches these embeddings.
        contrasts: Whether its pairs are contrasted.
        options: Options of the command.
        seed: Seed of weights and batches.
    """
    torch.manual_seed(seed)
    out = WIDTH if targets is None else targets[0].shape[1]
    student = Heads(part.own_images.shape[1], None, out, part.vocabulary)

    def loss_of(batch: Tensor) -> Tensor:
        rows = part.captions.owners[batch]
        images, texts = student.image(part.own_images[rows]), student.encode_texts([part.ids[n] for n in batch])
        loss = contrast(images, texts, student.logit_scale) if contrasts else images.new_zeros(())
        if matches and targets is not None:
            for found, expected in ((images, targets[0][rows]), (texts, targets[1][batch])):
                loss = loss + (1 - F.cosine_similarity(found, expected)).mean()
        return loss

    _fit(student, part, loss_of, options, seed)
    return student


def _fit(heads: Heads, part: Part, loss_of: Callable[[Tensor], Tensor], options: TargetsOptions, seed: int):
    steps = options.epochs * (len(part.images) // BATCH_SIZE)
    train(heads, batches_of(part.captions, BATCH_SIZE, options.epochs, seed), steps, loss_of, LEARNING_RATE)


def _rows(images: Tensor, texts: Tensor, part: Part, name: str, seed: int | None) -> list[Row]:
    return [
        Row(model=name, set="validation", language=language, metric="t2i_recall@10", value=value, seed=seed)
        for language, value in recall_at_10(images, texts, part.captions).items()
    ]

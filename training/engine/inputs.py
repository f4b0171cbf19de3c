"""What both stages learn from, built from a recipe: images with captions, their views, and the teacher's targets."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import DataConfig, TrainingRecipe
from training.data import CaptionTokens, PairDataset, Pairs, PairStream, load_source
from training.data.transforms import Augment, Normalize
from training.teachers import Teacher
from training.teachers.cache import build_target_cache
from training.teachers.targets import LiveTargets, TargetSource, TargetSpec
from training.text.tokenizers import same_tokens
from training.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Inputs:
    """All that a task and the loop need beside the student.

    Args:
        dataset: decoded images and tokenized captions.
        augment: random views of the images.
        normalize: the student's own statistics.
        targets: the teacher's answers; None without a teacher.
    """

    dataset: Pairs
    augment: Augment
    normalize: Normalize
    targets: TargetSource | None


def open_teacher(name: str, dtype: str) -> Teacher:
    """A teacher without its towers, for what is known without them; whoever runs it asks for the towers."""
    return Teacher.from_pretrained(name, towers=(), dtype=getattr(torch, dtype))


def caption_tokens(
    tokenizer: PreTrainedTokenizerBase, max_text_length: int, teacher: Teacher | None, folder: str | None = None
) -> CaptionTokens:
    """How the student's tokens relate to the teacher's.

    Args:
        tokenizer: the student's.
        max_text_length: the student's.
        teacher: its teacher, if there is one.
        folder: where the student's tokenizer came from; it may say how it was cut from the teacher's.
    """
    if teacher is None:
        return CaptionTokens(tokenizer, max_text_length)
    max_text_length = min(max_text_length, teacher.max_text_length)
    if same_tokens(tokenizer, teacher.tokenizer):
        return CaptionTokens(tokenizer, max_text_length)
    if folder is not None and Vocabulary.is_in(folder):
        vocabulary = Vocabulary.load(folder)
        if vocabulary.is_cut_of(teacher.tokenizer):
            return CaptionTokens(tokenizer, max_text_length, teacher.tokenizer, vocabulary)
    return CaptionTokens(tokenizer, max_text_length, teacher.tokenizer)


def open_inputs(
    recipe: TrainingRecipe,
    student: DCCLIPModel,
    processor: DCCLIPProcessor,
    teacher: Teacher | None,
    tokens: CaptionTokens | None,
    spec: TargetSpec,
    accelerator: Accelerator,
    images: bool = True,
) -> Inputs:
    """Open the data, and the teacher's targets: cached where the recipe names a folder, live otherwise.

    Args:
        recipe: of the stage.
        student: for its input size.
        processor: the student's.
        teacher: without towers; they are loaded where they must run, and not otherwise.
        tokens: makes token ids; None leaves captions out.
        spec: what is asked of the teacher.
        accelerator: of this process.
        images: whether images are wanted.

    Raises:
        ValueError: the data are a stream, and a cache is asked for.
    """
    size = max(student.config.image_size, teacher.image_size if teacher else 0) if images else None
    dataset = open_pairs(recipe.data, tokens, size)
    if isinstance(dataset, PairStream) and recipe.teacher_cache is not None:
        raise ValueError(
            f"teacher_cache: {recipe.teacher_cache!r} would hold a target for every row, and a stream has no rows to "
            "come back to. Take the live teacher (no teacher_cache), or read the data whole (data.streaming: false)."
        )
    # stored views are the same for every seed, so that runs can share them
    augment = Augment(recipe.augment, recipe.seed if recipe.teacher_cache is None else 0)
    targets: TargetSource | None = None
    if teacher is not None and recipe.teacher_cache is None:
        targets = LiveTargets(teacher.with_towers(spec.towers).to(accelerator.device), spec)
    elif teacher is not None and isinstance(dataset, PairDataset):
        with accelerator.main_process_first():
            targets = build_target_cache(
                recipe.teacher_cache,
                teacher,
                dataset,
                augment,
                spec,
                recipe.teacher_views,
                device=accelerator.device,
            )
    normalize = Normalize.from_processor(processor.image_processor, student.config.image_size)
    return Inputs(dataset, augment, normalize, targets)


def open_pairs(data: DataConfig, tokens: CaptionTokens | None, image_size: int | None) -> Pairs:
    """The data as a recipe describes them, whole or as a stream.

    Args:
        data: the sources.
        tokens: makes token ids; None leaves captions out.
        image_size: edge of the decoded images; None leaves images out.
    """
    if data.streaming:
        return PairStream(data, tokens, image_size)
    rows = [load_source(source.train, source.split or data.split, source.subset) for source in data.mixture]
    return PairDataset(rows, data, tokens, image_size)


def open_bank(text_bank: str | None, dataset: Pairs) -> list[str]:
    """The texts that images are compared with where logits are the target.

    Args:
        text_bank: a text file, one text a line; None takes the captions of the data.
        dataset: the data.

    Raises:
        ValueError: the file is not there or has fewer than two texts, or there is neither a file nor a caption.
    """
    if text_bank is None:
        if isinstance(dataset, PairStream) or not dataset.caption_ids:
            raise ValueError(
                "text_bank: target 'logits' compares with texts, and this run reads no captions, or a stream of which "
                "they are not known yet. Name a text file, one text a line."
            )
        return list(dataset.caption_ids)
    try:
        lines = Path(text_bank).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"text_bank: cannot read {text_bank!r} ({error}). Name a text file.") from error
    texts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(texts) < 2:
        raise ValueError(f"text_bank: {text_bank!r} has {len(texts)} texts; logits need at least two.")
    return texts

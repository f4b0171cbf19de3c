"""Inputs of both stages, built from a recipe: images with captions, augmentation, and the teacher's targets."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import DataConfig, TrainingRecipe
from training.data import CaptionTokenizer, PairDataset, Pairs, PairStream, load_source
from training.data.sources import check_split
from training.data.transforms import Augment, Normalize
from training.teachers import Teacher
from training.teachers.cache import build_target_cache
from training.teachers.targets import LiveTargets, TargetSource, TargetSpec
from training.text.tokenizers import same_tokens
from training.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Models:
    """Models of a stage.

    Args:
        student: Student to train.
        processor: Processor of the student.
        teacher: Teacher without its towers, which are loaded where they run; None trains without a teacher.
    """

    student: DCCLIPModel
    processor: DCCLIPProcessor
    teacher: Teacher | None


@dataclass(frozen=True)
class Inputs:
    """Everything that a task and the loop need besides the student.

    Args:
        dataset: Decoded images and tokenized captions.
        augment: Random image augmentation.
        normalize: Normalization with the student's mean and standard deviation.
        targets: Targets of the teacher; None without a teacher.
    """

    dataset: Pairs
    augment: Augment
    normalize: Normalize
    targets: TargetSource | None


def open_teacher(name: str, dtype: str) -> Teacher:
    """Open a teacher without its towers: its configuration, tokenizer and image processor.

    Args:
        name: Hub id or folder of the teacher.
        dtype: Precision of weights and activations, once towers are loaded: `float32`, `bfloat16` or `float16`.

    Returns:
        The teacher. Call `with_towers` to load the towers that run.
    """
    return Teacher.from_pretrained(name, towers=(), dtype=getattr(torch, dtype))


def caption_tokens(
    tokenizer: PreTrainedTokenizerBase, max_text_length: int, teacher: Teacher | None, folder: str | None = None
) -> CaptionTokenizer:
    """Relate the student's tokens to the teacher's.

    Args:
        tokenizer: Tokenizer of the student.
        max_text_length: Longest text of the student in tokens.
        teacher: Teacher of the student; None without a teacher.
        folder: Folder of the student's tokenizer, which may record how it was cut from the teacher's.

    Returns:
        The student's tokenization, together with the teacher's if the two differ.
    """
    if teacher is None:
        return CaptionTokenizer(tokenizer, max_text_length)
    max_text_length = min(max_text_length, teacher.max_text_length)
    if same_tokens(tokenizer, teacher.tokenizer):
        return CaptionTokenizer(tokenizer, max_text_length)
    if folder is not None and Vocabulary.is_in(folder):
        vocabulary = Vocabulary.load(folder)
        if vocabulary.is_cut_of(teacher.tokenizer):
            return CaptionTokenizer(tokenizer, max_text_length, teacher.tokenizer, vocabulary)
    return CaptionTokenizer(tokenizer, max_text_length, teacher.tokenizer)


def open_inputs(
    recipe: TrainingRecipe,
    models: Models,
    tokens: CaptionTokenizer | None,
    spec: TargetSpec,
    accelerator: Accelerator,
    images: bool = True,
) -> Inputs:
    """Open the data and the teacher's targets: cached if the recipe names a cache folder, otherwise live.

    Args:
        recipe: Recipe of the stage.
        models: Student, processor and teacher. The teacher's towers are loaded only if they must run.
        tokens: Tokenization of the captions; None leaves captions out.
        spec: Targets that the task needs.
        accelerator: Accelerator of this process.
        images: Whether the task needs images.

    Raises:
        ValueError: The data cannot be opened, or are a stream although the recipe has a `teacher_cache`.
    """
    student, teacher = models.student, models.teacher
    size = max(student.config.image_size, teacher.image_size if teacher else 0) if images else None
    dataset = open_pairs(recipe.data, tokens, size)
    if isinstance(dataset, PairStream) and recipe.teacher_cache is not None:
        raise ValueError(
            f"teacher_cache: {recipe.teacher_cache!r} cannot hold targets of a stream, which has no numbered rows. "
            "Remove teacher_cache to run the teacher at every step, or set data.streaming to false."
        )
    # cached views are the same for every seed, so that runs can share them
    augment = Augment(recipe.augment, recipe.seed if recipe.teacher_cache is None else 0)
    targets: TargetSource | None = None
    if teacher is not None and recipe.teacher_cache is None:
        targets = LiveTargets(teacher.with_towers(spec.towers).to(accelerator.device), spec)
    elif teacher is not None and recipe.teacher_cache is not None and isinstance(dataset, PairDataset):
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
    normalize = Normalize.from_processor(models.processor.image_processor, student.config.image_size)
    return Inputs(dataset, augment, normalize, targets)


def open_pairs(data: DataConfig, tokens: CaptionTokenizer | None, image_size: int | None) -> Pairs:
    """Open the sources of a recipe, as rows on disk or as a stream.

    Args:
        data: Sources of the recipe.
        tokens: Tokenization of the captions; None leaves captions out.
        image_size: Height and width of the decoded images in pixels; None leaves images out.

    Raises:
        ValueError: A source, split or column does not exist.
    """
    for source in data.mixture:
        check_split(source.train, source.split or data.split)
    if data.streaming:
        return PairStream(data, tokens, image_size)
    rows = [load_source(source.train, source.split or data.split, source.subset) for source in data.mixture]
    return PairDataset(rows, data, tokens, image_size)


def open_bank(text_bank: str | None, dataset: Pairs) -> list[str]:
    """Read the texts that images are compared with if the distillation target is `logits`.

    Args:
        text_bank: Text file with one text per line; None takes the captions of the data.
        dataset: Training data.

    Returns:
        At least two different texts, in the order of the file or the data.

    Raises:
        ValueError: The file cannot be read or has fewer than two texts, or there is neither a file nor a caption.
    """
    if text_bank is None:
        if isinstance(dataset, PairStream) or not dataset.caption_ids:
            raise ValueError(
                "text_bank: target 'logits' compares with texts, but the data are a stream or have no captions. Set "
                "text_bank to a text file with one text per line."
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

"""Inputs of both stages, built from a recipe: images with captions, augmentation, and the teacher's targets."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from modeling_dcclip.image_dcclip import squashes
from training.config import DataConfig, TrainingRecipe
from training.data import CaptionTokenizer, PairDataset, Pairs, PairStream, load_source
from training.data.images import Augment, Normalize
from training.tasks import Models
from training.teachers import DualEncoder
from training.teachers.cache import build_target_cache
from training.teachers.targets import LiveTargets, TargetSource, TargetSpec
from training.text.tokenizers import same_tokens
from training.text.vocabulary import Vocabulary

TEACHER_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by `mixed_precision`


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


def open_teacher(recipe: TrainingRecipe) -> DualEncoder | None:
    """Open the teacher of a recipe without its towers; None if it has no teacher.

    Raises:
        ValueError: The teacher cannot be opened.
    """
    if recipe.teacher is None:
        return None
    dtype = TEACHER_DTYPES.get(recipe.mixed_precision or "no", torch.float32)
    return DualEncoder.from_pretrained(recipe.teacher, towers=(), dtype=dtype, field="teacher")


def caption_tokens(
    tokenizer: PreTrainedTokenizerBase,
    max_text_length: int,
    teacher: DualEncoder | None,
    folder: str | None = None,
) -> CaptionTokenizer:
    """Relate the student's tokens to its teacher's tokens.

    Args:
        tokenizer: Tokenizer of the student.
        max_text_length: Longest text of the student in tokens.
        teacher: Teacher of the student; None without a teacher.
        folder: Folder of the student's tokenizer, which may record how it was cut from the teacher's.

    Returns:
        The student's tokenization, with the teacher's tokenization if it differs.
    """
    if teacher is None:
        return CaptionTokenizer(tokenizer, max_text_length)
    if preparation := teacher.family.prepare_texts(teacher.tokenizer):
        preparation.require_end_token(
            teacher.config, teacher.tokenizer, f"teacher: {teacher.name!r}"
        )
    max_text_length = min(max_text_length, teacher.max_text_length)
    vocabulary = None
    if teacher.clean is None:  # a text that is cleaned for the teacher alone has other tokens
        if same_tokens(tokenizer, teacher.tokenizer):
            return CaptionTokenizer(tokenizer, max_text_length)
        if folder is not None and Vocabulary.is_in(folder):
            vocabulary = Vocabulary.load(folder)
    if vocabulary is not None and not vocabulary.is_cut_of(teacher.tokenizer):
        vocabulary = None
    return CaptionTokenizer(
        tokenizer, max_text_length, teacher.tokenizer, vocabulary, clean=teacher.clean
    )


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
    student = models.student
    teacher = models.teacher
    cache = recipe.teacher_cache
    largest = max(student.config.image_size, teacher.image_size if teacher is not None else 0)
    dataset = open_pairs(
        recipe.data, tokens, largest if images else None, squashes(models.processor.image_processor)
    )
    # cached views are the same for every seed, so that runs can share them
    augment = Augment(recipe.augment, recipe.seed if cache is None else 0)
    targets: TargetSource | None
    if teacher is None:
        targets = None
    elif cache is None:
        live = teacher.with_towers(spec.towers).to(accelerator.device)
        targets = LiveTargets(live.compile() if recipe.torch_compile else live, spec)
    elif isinstance(dataset, PairStream):
        raise ValueError(
            f"teacher_cache: {cache!r} cannot hold targets of a stream, which has no numbered rows. Remove "
            "teacher_cache to run the teacher at every step, or set data.streaming to false."
        )
    else:
        targets = build_target_cache(
            cache,
            teacher,
            dataset,
            augment,
            spec,
            recipe.teacher_views,
            device=accelerator.device,
        )
    normalize = Normalize.from_processor(
        models.processor.image_processor, student.config.image_size
    )
    return Inputs(dataset, augment, normalize, targets)


def open_pairs(
    data: DataConfig, tokens: CaptionTokenizer | None, image_size: int | None, squash: bool = False
) -> Pairs:
    """Open the sources of a recipe, as rows on disk or as a stream.

    Args:
        data: Sources of the recipe.
        tokens: Tokenization of the captions; None leaves captions out.
        image_size: Height and width of the decoded images in pixels; None leaves images out.
        squash: Whether images are resized to the square without a crop.

    Raises:
        ValueError: A source, split or column does not exist.
    """
    if data.streaming:
        return PairStream(data, tokens, image_size, squash)
    rows = [
        load_source(
            source.train,
            source.split,
            subset=source.subset,
            image_column=source.image_column or data.image_column,
        )
        for source in data.mixture
    ]
    return PairDataset(rows, data, tokens, image_size, squash)

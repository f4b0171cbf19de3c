"""Inputs of both stages, built from a recipe: images with captions, augmentation, the teacher's targets, and texts and
images beyond the data.
"""

import json
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from modeling_dcclip.image_dcclip import squashes
from training.config import AlignRecipe, DataConfig, TrainingRecipe
from training.data import CaptionTokenizer, PairDataset, Pairs, PairStream, load_source, tokenize
from training.data.image_bank import load_images, vary_images
from training.data.images import Augment, Normalize
from training.data.sources import check_split
from training.tasks.align import Classifier, Rehearsal
from training.teachers import DualEncoder
from training.teachers.cache import build_target_cache
from training.teachers.targets import LiveTargets, TargetSource, TargetSpec, encode_bank
from training.text.scenes import FORMS, scenes
from training.text.tokenizers import same_tokens
from training.text.vocabulary import Vocabulary

IMAGES_AT_ONCE = 32  # that a teacher encodes before training
NUM_SCENES = 1000  # sentences of each language that a teacher encodes


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
    teacher: DualEncoder | None


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
    dtype = torch.bfloat16 if recipe.mixed_precision == "bf16" else torch.float32
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
    if teacher.clean is not None:  # a text that is cleaned for the teacher alone has other tokens
        return CaptionTokenizer(tokenizer, max_text_length, teacher.tokenizer, clean=teacher.clean)
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
    student, teacher, cache = models.student, models.teacher, recipe.teacher_cache
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
        targets = LiveTargets(teacher.with_towers(spec.towers).to(accelerator.device), spec)
    elif isinstance(dataset, PairStream):
        raise ValueError(
            f"teacher_cache: {cache!r} cannot hold targets of a stream, which has no numbered rows. Remove "
            "teacher_cache to run the teacher at every step, or set data.streaming to false."
        )
    else:
        with accelerator.main_process_first():
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
    for source in data.mixture:
        check_split(source.train, source.split, subset=source.subset)
    if data.streaming:
        return PairStream(data, tokens, image_size, squash)
    rows = [load_source(source.train, source.split, source.subset) for source in data.mixture]
    return PairDataset(rows, data, tokens, image_size, squash)


def open_rehearsal(
    recipe: AlignRecipe, models: Models, targets: TargetSource | None, accelerator: Accelerator
) -> dict[str, Rehearsal]:
    """Encode texts and images beyond the data with the teacher.

    Args:
        recipe: Recipe of stage 2.
        models: Student, processor and teacher.
        targets: Distillation targets of the run; None without a teacher.
        accelerator: Accelerator of this process.

    Returns:
        `general`, class names and sentences that come with this project in the student's languages, and `photo`,
        images of the student's size; each only with a teacher and if the recipe weights it.
    """
    rehearsal: dict[str, Rehearsal] = {}
    if models.teacher is not None and recipe.general_weight:
        from training.evaluation.sets.class_names import (
            general_pairs,  # most runs need neither evaluation nor packages
        )

        languages = models.student.config.languages
        texts = general_pairs(languages, held_out=False).texts
        texts += [text for each in languages if each in FORMS for text in scenes(each, NUM_SCENES)]
        tokens = tokenize(models.processor.tokenizer, texts, models.student.config.max_text_length)
        bank = encode_bank(models.teacher.with_towers(("text",)).to(accelerator.device), texts)
        rehearsal["general"] = Rehearsal(tokens, bank)
    if targets is not None and recipe.photo_weight:
        size = models.student.config.image_size
        if recipe.photos is not None:
            images = load_images(
                recipe.photos, recipe.data, size, squashes(models.processor.image_processor)
            )
        else:
            from training.corpus.free_photos import photo_crops

            images = vary_images(photo_crops(size))
        rehearsal["photo"] = _encode_images(
            images, targets, recipe.starts_from_teacher, accelerator
        )
    return rehearsal


def read_classifier(path: str) -> tuple[Tensor, Tensor, dict[str, list[str]]]:
    """Read a classifier: its weight (C, D), its bias (C,), both float32, and the names of its classes by language."""
    with safe_open(path, "pt") as file:
        weight, bias = (file.get_tensor(name).float() for name in ("weight", "bias"))
        return weight, bias, json.loads(file.metadata()["names"])


def open_classifier(recipe: AlignRecipe, models: Models) -> Classifier | None:
    """Read the classifier of a recipe, and tokenize its class names; None without a `class_weight`.

    Raises:
        ValueError: The file is missing, damaged or incomplete, or does not fit the teacher's image tower.
    """
    if (
        not recipe.class_weight or models.teacher is None
    ):  # without a teacher, the weight is refused
        return None
    if recipe.classifier is None:
        raise ValueError(
            f"classifier: none is named, but class_weight is {recipe.class_weight}. Name a file."
        )
    try:
        weight, bias, names = read_classifier(recipe.classifier)
        listed = [names[language] for language in recipe.data.languages]
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"classifier: {recipe.classifier!r} cannot be read ({error!r}). Expected a safetensors file with weight, "
            f"bias and the metadata `names`, which has {' and '.join(recipe.data.languages)}."
        ) from error
    width = models.teacher.vision_width
    if weight.shape != (len(bias), width) or any(len(each) != len(bias) for each in listed):
        raise ValueError(
            f"classifier: {recipe.classifier!r} has a weight of {tuple(weight.shape)}, {len(bias)} biases and "
            f"{[len(each) for each in listed]} names; the teacher's image map has {width} channels. Name the "
            "classifier of this image tower."
        )
    texts = [text for each in listed for text in each]
    tokens = tokenize(models.processor.tokenizer, texts, models.student.config.max_text_length)
    return Classifier(weight, bias, tokens)


@torch.inference_mode()
def _encode_images(
    images: Tensor, targets: TargetSource, needs_maps: bool, accelerator: Accelerator
) -> Rehearsal:
    """Embeddings by the teacher and, if the student starts as a copy of its teacher, feature maps."""
    embeddings, maps = [], []
    hidden = not accelerator.is_main_process
    for part in tqdm(
        images.split(IMAGES_AT_ONCE), "general images", unit="batch", leave=False, disable=hidden
    ):
        part = part.to(accelerator.device).float()
        if needs_maps and isinstance(targets, LiveTargets):
            found = targets.teacher.image_targets(targets.normalize(part))
            maps.append(found.required_map.half())
        else:
            found = targets.images(part, {})
        embeddings.append(found.embedding.float())
    return Rehearsal(
        {"images": images} | ({"maps": torch.cat(maps)} if maps else {}), torch.cat(embeddings)
    )

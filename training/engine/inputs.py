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
from training.config import AlignRecipe, DataConfig, TeacherConfig, TrainingRecipe
from training.data import CaptionTokenizer, PairDataset, Pairs, PairStream, load_source, tokenize
from training.data.image_bank import load_images, vary_images
from training.data.images import Augment, Normalize
from training.data.sources import check_split
from training.tasks.align import Classifier, Rehearsal
from training.teachers import Teacher
from training.teachers.cache import build_target_cache
from training.teachers.ensemble import Ensemble, JointTargets, Member, joint_bank
from training.teachers.targets import LiveTargets, TargetSource, TargetSpec
from training.text.tokenizers import same_tokens
from training.text.vocabulary import Vocabulary

IMAGES_AT_ONCE = 32  # that a teacher encodes before training


@dataclass(frozen=True)
class Models:
    """Models of a stage.

    Args:
        student: Student to train.
        processor: Processor of the student.
        teachers: Teachers without their towers, which are loaded where they run; None trains without a teacher.
    """

    student: DCCLIPModel
    processor: DCCLIPProcessor
    teachers: Ensemble | None


@dataclass(frozen=True)
class Inputs:
    """Everything that a task and the loop need besides the student.

    Args:
        dataset: Decoded images and tokenized captions.
        augment: Random image augmentation.
        normalize: Normalization with the student's mean and standard deviation.
        targets: Targets of the teachers; None without a teacher.
    """

    dataset: Pairs
    augment: Augment
    normalize: Normalize
    targets: TargetSource | None


def open_teachers(recipe: TrainingRecipe) -> Ensemble | None:
    """Open all teachers of a recipe without their towers; None if it has no teacher.

    Raises:
        ValueError: A teacher cannot be opened, teachers cannot be combined, or a tower that is trained has none.
    """
    configs: list[TeacherConfig] = recipe.all_teachers
    if not configs:
        return None
    dtype = torch.bfloat16 if recipe.mixed_precision == "bf16" else torch.float32
    teachers = [Teacher.from_pretrained(each.teacher, towers=(), dtype=dtype) for each in configs]
    ensemble = Ensemble(teachers, configs)
    ensemble.check(recipe.towers, recipe.data.languages)
    return ensemble


def caption_tokens(
    tokenizer: PreTrainedTokenizerBase, max_text_length: int, teachers: Ensemble | None, folder: str | None = None
) -> CaptionTokenizer:
    """Relate the student's tokens to its teachers' tokens.

    If one of several teachers has token states that the student can learn, it comes first.

    Args:
        tokenizer: Tokenizer of the student.
        max_text_length: Longest text of the student in tokens.
        teachers: Teachers of the student; None without a teacher.
        folder: Folder of the student's tokenizer, which may record how it was cut from a teacher's.

    Returns:
        The student's tokenization, with the teachers' tokenizations if they differ.
    """
    if teachers is None:
        return CaptionTokenizer(tokenizer, max_text_length)
    each = {
        member.number: _tokens_of(member, tokenizer, max_text_length, folder) for member in teachers.with_tower("text")
    }
    first = next((number for number, tokens in each.items() if tokens.has_token_targets), min(each))
    tokens = each.pop(first)
    tokens.further = each
    return tokens


def states_teacher(teachers: Ensemble, tokens: CaptionTokenizer) -> Teacher:
    """The teacher whose token states the student learns, if there are targets of tokens at all."""
    return next(member.teacher for member in teachers.with_tower("text") if member.number not in tokens.further)


def _tokens_of(
    member: Member, tokenizer: PreTrainedTokenizerBase, max_text_length: int, folder: str | None
) -> CaptionTokenizer:
    teacher = member.teacher
    max_text_length = min(max_text_length, teacher.max_text_length)
    # the translation of a caption has other tokens, and so has a text that is cleaned for the teacher alone
    if member.config.languages is not None or teacher.clean is not None:
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
    student, teachers = models.student, models.teachers
    sizes = [member.teacher.image_size for member in teachers.with_tower("vision")] if teachers is not None else []
    image_size = max(student.config.image_size, *sizes, 0) if images else None
    dataset = open_pairs(recipe.data, tokens, image_size, squashes(models.processor.image_processor))
    if isinstance(dataset, PairStream) and recipe.teacher_cache is not None:
        raise ValueError(
            f"teacher_cache: {recipe.teacher_cache!r} cannot hold targets of a stream, which has no numbered rows. "
            "Remove teacher_cache to run the teacher at every step, or set data.streaming to false."
        )
    # cached views are the same for every seed, so that runs can share them
    augment = Augment(recipe.augment, recipe.seed if recipe.teacher_cache is None else 0)
    targets: TargetSource | None = None
    if teachers is not None:
        sources = []
        for member in teachers.members:
            if towers := tuple(tower for tower in spec.towers if tower in member.towers):
                grid = spec.grid if member is teachers.image_map_member else None
                gives_states = tokens is not None and member.number not in tokens.further
                own = TargetSpec(towers, grid, spec.token_maps and gives_states)
                source = _open_source(recipe, models, member, own, dataset, augment, tokens, accelerator)
                sources.append((member, source))
        if len(teachers.members) == 1 and teachers.members[0].config.languages is None:
            targets = sources[0][1]
        else:
            targets = JointTargets(sources, teachers.projection_dim, recipe.data.languages)
    normalize = Normalize.from_processor(models.processor.image_processor, student.config.image_size)
    return Inputs(dataset, augment, normalize, targets)


def _open_source(
    recipe: TrainingRecipe,
    models: Models,
    member: Member,
    spec: TargetSpec,
    dataset: Pairs,
    augment: Augment,
    tokens: CaptionTokenizer | None,
    accelerator: Accelerator,
) -> TargetSource:
    """Targets of one teacher: cached if the recipe names a cache folder, otherwise live."""
    assert models.teachers is not None
    teacher, device = member.teacher, accelerator.device
    if recipe.teacher_cache is None:
        return LiveTargets(teacher.with_towers(spec.towers).to(device), spec)
    assert isinstance(dataset, PairDataset)  # a stream is refused
    if dataset.image_size is not None:  # as without other teachers, whose images may be larger
        dataset = dataset.with_image_size(max(models.student.config.image_size, teacher.image_size))
    if tokens is not None:
        tokens = tokens.further.get(member.number, tokens)
    with accelerator.main_process_first():
        return build_target_cache(
            recipe.teacher_cache, teacher, dataset, augment, spec, recipe.teacher_views, device=device, tokens=tokens
        )


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
        check_split(source.train, source.split)
    if data.streaming:
        return PairStream(data, tokens, image_size, squash)
    rows = [load_source(source.train, source.split, source.subset) for source in data.mixture]
    return PairDataset(rows, data, tokens, image_size, squash)


def open_rehearsal(
    recipe: AlignRecipe, models: Models, targets: TargetSource | None, accelerator: Accelerator
) -> dict[str, Rehearsal]:
    """Encode texts and images beyond the data with the teachers.

    Args:
        recipe: Recipe of stage 2.
        models: Student, processor and teachers.
        targets: Distillation targets of the run; None without a teacher.
        accelerator: Accelerator of this process.

    Returns:
        `general`, class names that come with this project in the student's languages, and `photo`, images of the
        student's size; each only with a teacher and if the recipe weights it.
    """
    rehearsal: dict[str, Rehearsal] = {}
    if models.teachers is not None and recipe.general_weight:
        from training.evaluation.sets.class_names import (
            general_pairs,  # most runs need neither evaluation nor packages
        )

        texts = general_pairs(models.student.config.languages, held_out=False).texts
        tokens = tokenize(models.processor.tokenizer, texts, models.student.config.max_text_length)
        bank = joint_bank(models.teachers, texts, accelerator.device, "general_weight")
        rehearsal["general"] = Rehearsal(tokens, bank)
    if targets is not None and recipe.photo_weight:
        size = models.student.config.image_size
        if recipe.photos is not None:
            images = load_images(recipe.photos, recipe.data, size, squashes(models.processor.image_processor))
        else:
            from training.corpus.free_photos import photo_crops

            images = vary_images(photo_crops(size))
        rehearsal["photo"] = _encode_images(images, targets, recipe.starts_from_teacher, accelerator)
    return rehearsal


def open_classifier(recipe: AlignRecipe, models: Models) -> Classifier | None:
    """Read the classifier of a recipe, and tokenize its class names; None without a `class_weight`.

    Raises:
        ValueError: The file is missing, damaged or incomplete, or does not fit the teacher's image tower.
    """
    if not recipe.class_weight or models.teachers is None:  # without a teacher, the weight is refused
        return None
    if recipe.classifier is None:
        raise ValueError(f"classifier: none is named, but class_weight is {recipe.class_weight}. Name a file.")
    try:
        with safe_open(recipe.classifier, "pt") as file:
            weight, bias, names = (
                file.get_tensor("weight").float(),
                file.get_tensor("bias").float(),
                json.loads(file.metadata()["names"]),
            )
        listed = [names[language] for language in recipe.data.languages]
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"classifier: {recipe.classifier!r} cannot be read ({error!r}). Expected a safetensors file with weight, "
            f"bias and the metadata `names`, which has {' and '.join(recipe.data.languages)}."
        ) from error
    member = models.teachers.image_map_member
    width = member.teacher.vision_width if member is not None else 0
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
def _encode_images(images: Tensor, targets: TargetSource, needs_maps: bool, accelerator: Accelerator) -> Rehearsal:
    """Embeddings by the teachers and, if the student starts as a copy of its teacher, feature maps."""
    embeddings, maps = [], []
    hidden = not accelerator.is_main_process
    for part in tqdm(images.split(IMAGES_AT_ONCE), "general images", unit="batch", leave=False, disable=hidden):
        part = part.to(accelerator.device).float()
        if needs_maps and isinstance(targets, LiveTargets):
            found = targets.teacher.encode_images(targets.normalize(part))
            maps.append(found.required_map.half())
        else:
            found = targets.images(part, {})
        embeddings.append(found.embedding.float())
    return Rehearsal({"images": images} | ({"maps": torch.cat(maps)} if maps else {}), torch.cat(embeddings))

"""What stage 2 learns from beyond its data: general texts and images, and a classifier.

Evaluation and packages with photographs are imported by the functions, because most runs need none of them.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from modeling_dcclip.image_dcclip import squashes
from training.config import AlignRecipe
from training.data import tokenize
from training.data.image_bank import load_images, vary_images
from training.engine.inputs import Models
from training.tasks.align import GeneralImages, GeneralTexts
from training.teachers.classifier import Classifier, ClassTargets
from training.teachers.ensemble import joint_bank
from training.teachers.targets import LiveTargets, TargetSource

PHOTO_BATCH = 32


def general_texts(recipe: AlignRecipe, models: Models, accelerator: Accelerator) -> GeneralTexts | None:
    """Class names that come with this project, with the teachers' embeddings.

    Args:
        recipe: Recipe of stage 2.
        models: Student, processor and teachers.
        accelerator: Accelerator of this process.

    Returns:
        Texts in the languages of the student; None without a teacher or a `general_weight`.
    """
    from training.evaluation.sets.general import general_pairs

    if models.teachers is None or not recipe.general_weight:
        return None
    texts = general_pairs(models.student.config.languages, held_out=False).texts
    tokens = tokenize(models.processor.tokenizer, texts, models.student.config.max_text_length)
    targets = joint_bank(recipe.teacher_cache, models.teachers, texts, accelerator.device, "general_weight")
    return GeneralTexts(tokens["input_ids"], tokens["attention_mask"], targets)


def general_photos(
    recipe: AlignRecipe, models: Models, targets: TargetSource | None, accelerator: Accelerator
) -> GeneralImages | None:
    """General images, with the teachers' embeddings and, if the teacher is the student's start, its feature maps.

    Args:
        recipe: Recipe of stage 2.
        models: Student, processor and teachers.
        targets: Distillation targets of the run; None without a teacher.
        accelerator: Accelerator of this process.

    Returns:
        Images of the student's size; None without a teacher or a `photo_weight`.
    """
    from training.corpus.photo_crops import photo_crops

    if targets is None or not recipe.photo_weight:
        return None
    size = models.student.config.image_size
    if recipe.photos is not None:
        images = load_images(recipe.photos, recipe.data, size, squashes(models.processor.image_processor))
    else:
        images = vary_images(photo_crops(size))
    embeddings, maps = [], []
    with torch.inference_mode():
        hidden = not accelerator.is_main_process
        for part in tqdm(images.split(PHOTO_BATCH), "general images", unit="batch", leave=False, disable=hidden):
            part = part.to(accelerator.device).float()
            if recipe.starts_from_teacher and isinstance(targets, LiveTargets):
                found = targets.teacher.encode_images(targets.normalize(part))
                maps.append(found.required_map.half())
            else:
                found = targets.images(part, {})
            embeddings.append(found.embedding.float())
    return GeneralImages(images, torch.cat(embeddings), torch.cat(maps) if maps else None)


def class_targets(recipe: AlignRecipe, models: Models, accelerator: Accelerator) -> ClassTargets | None:
    """The recipe's classifier, and the names of its classes for the student.

    Args:
        recipe: Recipe of stage 2.
        models: Student, processor and teachers.
        accelerator: Accelerator of this process.

    Returns:
        Names in the languages of the data; None without a `classifier_weight`.

    Raises:
        ValueError: The classifier cannot be loaded, or its classes have no names in a language of the data.
    """
    from training.evaluation.classify import class_embeddings
    from training.evaluation.models.zero_shot_model import ZeroShotModel
    from training.evaluation.sets.class_names import ClassNames
    from training.evaluation.sets.general import general_templates
    from training.evaluation.sets.imagenet import CLIP_BENCHMARK, imagenet_names

    if not recipe.classifier_weight or recipe.classifier is None:
        return None
    listed, languages = recipe.classifier_names, recipe.data.languages
    try:
        names = ClassNames.read(listed) if listed else imagenet_names(CLIP_BENCHMARK)[0]
        by_language = {language: names.in_language(language) for language in languages}
    except ValueError as error:
        raise ValueError(
            f"classifier_names: cannot name the classes in {languages}, the languages of the captions ({error}) Name "
            "a file with a name of each class in these languages."
        ) from error
    num_names = len(names.names[names.key])
    classifier = Classifier.from_pretrained(
        recipe.classifier, getattr(torch, recipe.teacher_dtype), accelerator.device
    )
    if num_names != classifier.num_classes:
        raise ValueError(
            f"classifier_names: there are {num_names} names, and {recipe.classifier!r} has "
            f"{classifier.num_classes} classes. Give one name per class, in the order of its outputs."
        )
    # where it is loaded: a rotation that follows is computed there
    student = ZeroShotModel(models.student.eval(), models.processor, str(recipe.student))
    embeddings = [class_embeddings(student, texts, general_templates(code)) for code, texts in by_language.items()]
    tokens = _prompt_tokens(by_language, models)
    return ClassTargets(
        classifier,
        torch.stack(embeddings).to(accelerator.device),
        tokens["input_ids"],
        tokens["attention_mask"],
    )


def _prompt_tokens(names: Mapping[str, Sequence[str]], models: Models) -> dict[str, Tensor]:
    """Tokens of C names in L languages, each in P prompts, (L, P, C, T) int64; prompts of a language may repeat."""
    from training.evaluation.sets.general import general_templates

    templates = {language: general_templates(language) for language in names}
    num_prompts, num_names = max(map(len, templates.values())), len(next(iter(names.values())))
    texts = [
        template.format(name)
        for language, listed in names.items()
        for template in islice(cycle(templates[language]), num_prompts)
        for name in listed
    ]
    tokens = tokenize(models.processor.tokenizer, texts, models.student.config.max_text_length)
    return {name: ids.unflatten(0, (len(names), num_prompts, num_names)) for name, ids in tokens.items()}

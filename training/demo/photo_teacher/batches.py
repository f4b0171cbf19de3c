"""All features of a run, and the samples of a step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from training.demo.photo_teacher.features import FeatureMaker, ImageFeatures, TextFeatures
from training.demo.photo_teacher.lite2 import Lite2
from training.demo.photo_teacher.photographs import (
    CaptionedImages,
    ClassImages,
    load_captioned,
    load_classes,
    load_unlabelled,
    object_names,
    prompts,
)
from training.demo.photo_teacher.recipe import PhotoTeacherRecipe
from training.text.writing_systems import LANGUAGES

IMAGE_PHASE = 2
Prompts = dict[str, list[TextFeatures]]  # language -> features of the class names, one item per template


@dataclass(frozen=True)
class Captioned:
    """Features of captioned images.

    Args:
        views: Features of the whole images, then of random crops and of small images, one item per view.
        captions: Features of the captions by language, image after image.
        caption_ids: Ids of the captions by language, (captions,) int64. Equal captions have the same id.
        starts: Index of the first caption of each image, then the number of captions, (N + 1,) int64.
    """

    views: list[ImageFeatures]
    captions: dict[str, TextFeatures]
    caption_ids: dict[str, Tensor]
    starts: Tensor


@dataclass(frozen=True)
class Classes:
    """Features of images with a class name.

    Args:
        views: Features of the whole images, then of small images, one item per view.
        labels: Class index of each image, (M,) int64.
        held_out: Whether a class is not trained on, (classes,) bool.
        names: Features of the class names by language and template.
    """

    views: list[ImageFeatures]
    labels: Tensor
    held_out: Tensor
    names: Prompts


@dataclass(frozen=True)
class TrainingData:
    """All features of a run.

    Args:
        captioned: Training images with captions.
        validation: Validation images with captions.
        classes: Training images with class names; None if the recipe has none.
        class_validation: Validation images with class names; None if the recipe has none.
        unlabelled: Images without captions by view, as in `Classes`; empty if the recipe has none.
        object_names: Features of the names of ImageNet's classes by language and template.
        classifier: Classifier of ImageNet's classes.
    """

    captioned: Captioned
    validation: Captioned
    classes: Classes | None
    class_validation: Classes | None
    unlabelled: list[ImageFeatures]
    object_names: Prompts
    classifier: Lite2


def load_training_data(recipe: PhotoTeacherRecipe, maker: FeatureMaker, lite2: Lite2) -> TrainingData:
    """Load the sources of the recipe and compute their features.

    Args:
        recipe: Recipe that names the sources.
        maker: Feature maker with the untrained teacher.
        lite2: Image tower with its ImageNet classifier.

    Raises:
        ValueError: A source is missing or damaged, or a package with class names is not installed.
    """
    columns, image = recipe.data.caption_columns, recipe.data.image_column
    # every source is checked before the first feature is computed
    captioned = load_captioned(recipe.data.train or "", columns, "data.train", image)
    validation = load_captioned(recipe.validation, columns, "validation", image)
    class_sets = load_classes(recipe)
    unlabelled = load_unlabelled(recipe)
    imagenet = object_names()
    train, held = _classes(*class_sets, maker, recipe)
    return TrainingData(
        captioned=_captioned(captioned, maker, recipe.image_crops, recipe.small_views),
        validation=_captioned(validation, maker, 0, 0),
        classes=train,
        class_validation=held,
        unlabelled=_views([(each.name, each.images) for each in unlabelled], maker, recipe.small_views),
        object_names=_prompts("imagenet", imagenet, maker),
        classifier=lite2,
    )


def _captioned(source: CaptionedImages, maker: FeatureMaker, num_crops: int, num_small: int) -> Captioned:
    views = _views([(source.name, source.images)], maker, num_small)
    views[1:1] = [maker.images(source.name, source.images, 1 + number) for number in range(num_crops)]
    texts = {language: [text for cell in cells for text in cell] for language, cells in source.captions.items()}
    features = {language: maker.texts(f"{source.name}-{language}", each) for language, each in texts.items()}
    ids = {language: torch.from_numpy(np.unique(each, return_inverse=True)[1]) for language, each in texts.items()}
    lengths = [len(cell) for cell in source.captions[LANGUAGES[0]]]
    return Captioned(views, features, ids, torch.tensor([0, *np.cumsum(lengths)]))


def _classes(
    train: list[ClassImages],
    validation: list[ClassImages],
    translations: dict[str, str],
    maker: FeatureMaker,
    recipe: PhotoTeacherRecipe,
) -> tuple[Classes | None, Classes | None]:
    if not translations:
        return None, None
    english = list(translations)
    order = np.random.default_rng(recipe.seed).permutation(len(english))
    held_out = torch.zeros(len(english), dtype=torch.bool)
    held_out[order[: round(recipe.held_out_classes * len(english))]] = True
    names = _prompts("classes", {"en": english, "zh": list(translations.values())}, maker)
    indices = {name: index for index, name in enumerate(english)}
    parts: list[Classes | None] = []
    for kind, all_sets in (("train", train), ("validation", validation)):
        if not (sets := [each for each in all_sets if each.names]):  # small classes have no validation images
            parts.append(None)
            continue
        labels = torch.tensor([indices[name] for each in sets for name in each.names])
        views = _views([(f"{each.name}-{kind}", each.images) for each in sets], maker, recipe.small_views)
        parts.append(Classes(views, labels, held_out, names))
    return parts[0], parts[1]


def _prompts(name: str, names: dict[str, list[str]], maker: FeatureMaker) -> Prompts:
    return {
        language: [
            maker.texts(f"{name}-{language}-template{number}", texts)
            for number, texts in enumerate(prompts(each, language))
        ]
        for language, each in names.items()
    }


def _views(sources: Sequence[tuple[str, Dataset]], maker: FeatureMaker, num_small: int) -> list[ImageFeatures]:
    """Features of the whole images of all sources, then of small images, one item per view."""
    if not sources:
        return []
    views = [_concatenate([maker.images(*source) for source in sources])]
    for view in range(num_small):
        small = _concatenate([maker.images(*source, view, is_small=True) for source in sources])
        # the classifier reads the sharp image, so that a small one is trained towards what it shows
        views.append(ImageFeatures(small.maps, views[0].pooled))
    return views


def _concatenate(parts: Sequence[ImageFeatures]) -> ImageFeatures:
    return ImageFeatures(torch.cat([part.maps for part in parts]), torch.cat([part.pooled for part in parts]))


@dataclass(frozen=True)
class Step:
    """The samples of one step.

    Args:
        view: Index of the view of the captioned images.
        images: Indices of captioned images, (B,) int64.
        captions: Indices of their captions, the same in both languages, (B,) int64.
        class_images: Indices of class images, (M,) int64; empty if there are none.
        unlabelled: Indices of images without captions, (U,) int64; empty if there are none.
        template: Index of the prompt template of all class names.
        other_view: Index of the view of the images without captions.
    """

    view: int
    images: Tensor
    captions: Tensor
    class_images: Tensor
    unlabelled: Tensor
    template: int
    other_view: int


def draw_step(data: TrainingData, recipe: PhotoTeacherRecipe, phase: int, step: int) -> Step:
    """Draw the samples of a step, a pure function of the seed, the phase and the step.

    Args:
        data: All features of the run.
        recipe: Recipe with the batch sizes and the seed.
        phase: Training phase, 0 for the projections alone, 1 for the upper layers, 2 for the image tower alone. Small
            images are drawn in phase 2 only.
        step: Number of the step, from 0.
    """
    rng = np.random.default_rng([recipe.seed, phase, step])
    starts = data.captioned.starts
    images = _draw(rng, torch.arange(len(starts) - 1), recipe.batch_size)
    counts = starts[images + 1] - starts[images]
    captions = starts[images] + (torch.from_numpy(rng.random(len(images))) * counts).long()
    trained = torch.empty(0, dtype=torch.long)
    if data.classes is not None:
        trained = (~data.classes.held_out[data.classes.labels]).nonzero()[:, 0]
    num_unlabelled = len(data.unlabelled[0]) if data.unlabelled else 0
    num_small = 0 if phase == IMAGE_PHASE else recipe.small_views
    return Step(
        view=int(rng.integers(len(data.captioned.views) - num_small)),
        images=images,
        captions=captions,
        class_images=_draw(rng, trained, recipe.class_batch_size),
        unlabelled=_draw(rng, torch.arange(num_unlabelled), recipe.class_batch_size),
        template=int(rng.integers(len(data.object_names["en"]))),
        other_view=int(rng.integers(1 + recipe.small_views - num_small)),
    )


def _draw(rng: np.random.Generator, indices: Tensor, count: int) -> Tensor:
    return indices[torch.from_numpy(rng.permutation(len(indices))[:count])]

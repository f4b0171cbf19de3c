"""The losses of one step."""

import torch
from torch import Tensor

from training.demo.photo_teacher.batches import Step, TrainingData
from training.demo.photo_teacher.encoders import Encoder
from training.demo.photo_teacher.recipe import PhotoTeacherRecipe
from training.tasks.losses import info_nce
from training.text.writing_systems import LANGUAGES


def step_losses(encoder: Encoder, data: TrainingData, step: Step, recipe: PhotoTeacherRecipe) -> dict[str, Tensor]:
    """Compute the losses of one step and their weighted sum.

    Args:
        encoder: Trained part of the teacher.
        data: All features of the run.
        step: Samples of the step.
        recipe: Recipe with the weights of the losses.

    Returns:
        Scalars by name, and their weighted sum under `loss`. Each loss is the mean over both languages.
    """
    scale = encoder.logit_scale.exp()
    view = data.captioned.views[step.view]
    images = encoder.images(view, step.images)
    ids = {language: data.captioned.caption_ids[language][step.captions] for language in LANGUAGES}
    # (B, B), True for an image's own caption and equal ones
    positive = {language: each[:, None] == each for language, each in ids.items()}
    texts = {language: encoder.texts(data.captioned.captions[language], step.captions) for language in LANGUAGES}
    losses = {
        "captions": _mean([info_nce(images, texts[language], scale, positive[language]) for language in LANGUAGES]),
        "text_text": info_nce(texts["en"], texts["zh"], scale, positive["en"] | positive["zh"]),
    }
    weights = {"captions": 1.0, "text_text": recipe.text_text_weight}
    embeds, pooled = [images], [view.pooled[step.images]]
    if data.classes is not None and len(step.class_images):
        class_view = data.classes.views[step.other_view]
        class_images = encoder.images(class_view, step.class_images)
        labels, positions = data.classes.labels[step.class_images].unique(return_inverse=True)
        is_class = positions[:, None] == torch.arange(len(labels))  # (M, classes)
        names = {language: data.classes.names[language][step.template] for language in LANGUAGES}
        losses["classes"] = _mean(
            [info_nce(class_images, encoder.texts(names[language], labels), scale, is_class) for language in LANGUAGES]
        )
        weights["classes"] = recipe.class_weight
        embeds.append(class_images)
        pooled.append(class_view.pooled[step.class_images])
    if len(step.unlabelled):
        unlabelled = data.unlabelled[step.other_view]
        embeds.append(encoder.images(unlabelled, step.unlabelled))
        pooled.append(unlabelled.pooled[step.unlabelled])
    losses["imagenet"] = _imagenet_loss(encoder, data, step, recipe, torch.cat(embeds), torch.cat(pooled).float())
    weights["imagenet"] = recipe.imagenet_weight
    return losses | {"loss": torch.stack([weights[name] * value for name, value in losses.items()]).sum()}


def _imagenet_loss(
    encoder: Encoder, data: TrainingData, step: Step, recipe: PhotoTeacherRecipe, images: Tensor, pooled: Tensor
) -> Tensor:
    """Cross-entropy between the classifier's probabilities and the similarities to the names of its classes.

    Only the names with the largest total probability in these images are compared, because every name costs a pass
    through the text layers. Each image is weighted by the total probability of these names.

    Args:
        encoder: Trained part of the teacher.
        data: All features of the run.
        step: Step with the index of the template.
        recipe: Recipe with the number of names.
        images: Embeddings of the images, (B, D) float32.
        pooled: Pooled outputs of the pretrained image tower, the input of the classifier, (B, 1280) float32.

    Source: the idea of ConSE, Norouzi et al., arXiv 1312.5650.
    """
    probabilities = data.classifier.log_probabilities(pooled).exp()  # (B, 1000)
    chosen = probabilities.sum(0).topk(min(recipe.num_names, probabilities.shape[1])).indices
    target = probabilities[:, chosen]
    losses = []
    for language in LANGUAGES:
        names = encoder.texts(data.object_names[language][step.template], chosen)
        similarities = (encoder.logit_scale.exp() * images @ names.T).log_softmax(-1)
        losses.append(-(target * similarities).sum(-1).mean())
    return _mean(losses)


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()

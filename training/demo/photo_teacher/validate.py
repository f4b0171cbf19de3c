"""Metrics on the validation images."""

import torch

from training.demo.photo_teacher.batches import Captioned, Classes, TrainingData
from training.demo.photo_teacher.encoders import Encoder
from training.demo.photo_teacher.features import ImageFeatures
from training.evaluation.metrics import recall_at_k
from training.text.writing_systems import LANGUAGES

KS = (1, 5, 10)


def validate(encoder: Encoder, data: TrainingData) -> dict[str, float]:
    """Recall of captioned images, and accuracy of class images among all class names.

    Args:
        encoder: Trained part of the teacher.
        data: All features of the run.

    Returns:
        Fractions in 0..1 by names such as `t2i_recall@5_en`, `held_out_top1_zh` and `small_held_out_top1_zh`, which is
        of images of low resolution.
    """
    is_training = encoder.training
    encoder.eval()
    metrics = recalls(encoder, data.validation)
    if data.class_validation is not None:
        for prefix, features in zip(("", "small_"), data.class_validation.views, strict=False):
            found = accuracies(encoder, data.class_validation, features)
            metrics |= {prefix + name: value for name, value in found.items()}
    encoder.train(is_training)
    return metrics


def recalls(encoder: Encoder, captioned: Captioned) -> dict[str, float]:
    """R@1, R@5 and R@10, text to image and image to text. Every caption is a query.

    Args:
        encoder: Trained part of the teacher, in eval mode.
        captioned: Features of the validation images and their captions.
    """
    images = encoder.all_images(captioned.views[0])
    counts = captioned.starts.diff()
    owners = torch.arange(len(counts)).repeat_interleave(counts)
    pairs = torch.stack([owners, torch.arange(len(owners))], 1)  # (captions, 2)
    metrics = {}
    for language in LANGUAGES:
        scores = images @ encoder.all_texts(captioned.captions[language]).T  # (images, captions)
        for k in (k for k in KS if k <= min(scores.shape)):
            metrics[f"t2i_recall@{k}_{language}"] = recall_at_k(scores.T, pairs.flip(1), k)
            metrics[f"i2t_recall@{k}_{language}"] = recall_at_k(scores, pairs, k)
    return metrics


def accuracies(encoder: Encoder, classes: Classes, features: ImageFeatures) -> dict[str, float]:
    """Top-1 accuracy among the names of all classes, separately for trained and for held-out classes.

    Args:
        encoder: Trained part of the teacher, in eval mode.
        classes: Validation images with class names.
        features: Features of one view of them.
    """
    images = encoder.all_images(features)
    held_out = classes.held_out[classes.labels]
    metrics = {}
    for language in LANGUAGES:
        names = torch.stack([encoder.all_texts(texts) for texts in classes.names[language]]).mean(0)
        is_right = (images @ torch.nn.functional.normalize(names, dim=-1).T).argmax(1) == classes.labels
        for kind, mask in (("seen", ~held_out), ("held_out", held_out)):
            if mask.any():
                metrics[f"{kind}_top1_{language}"] = is_right[mask].float().mean().item()
    return metrics

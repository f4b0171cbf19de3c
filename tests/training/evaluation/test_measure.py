"""From embeddings to the numbers of a row."""

import math

import pytest
import torch
import torch.nn.functional as F

from training.evaluation.measure import agreement, measure
from training.evaluation.metrics import eleven_point_map, mean_per_class_accuracy, roc_auc, top_k_accuracy


@pytest.fixture
def embeddings():
    generator = torch.Generator().manual_seed(0)
    images, classes = (F.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (60, 7))
    return images, classes, torch.randint(0, 6, (60,), generator=generator)  # no image of the last class


def test_all_metrics_of_single_labels(embeddings):
    images, classes, labels = embeddings
    found = measure(images, classes, labels, "top1")
    scores = images @ classes.T
    assert found.values == {
        "top1": top_k_accuracy(scores, labels),
        "top5": top_k_accuracy(scores, labels, 5),
        "mean_per_class": mean_per_class_accuracy(scores, labels),
    }
    assert torch.equal(found.answers, scores.argmax(1)) and set(found.intervals) == {"top1", "top5"}
    assert found.confusion.sum() == 60 and found.confusion.diag().sum() == round(60 * found.values["top1"])
    assert (
        math.isnan(found.per_class[6]) and found.per_class[2] == (scores.argmax(1)[labels == 2] == 2).double().mean()
    )


def test_several_labels_are_scored_by_the_softmax_over_classes(embeddings):
    images, classes, labels = embeddings
    targets = F.one_hot(labels, 7).to(torch.int8)
    targets[:, 2] = 1
    found = measure(images, classes, targets, "11_point_map")
    chances = (100 * images @ classes.T).softmax(1)
    assert found.values["11_point_map"] == eleven_point_map(chances, targets)
    assert found.values["11_point_map"] != eleven_point_map(images @ classes.T, targets)
    right = targets[torch.arange(60), chances.argmax(1)].double().mean().item()
    assert found.values["top1"] == right and found.confusion is None
    assert found.per_class[2] == 1 and math.isnan(found.per_class[6])


def test_roc_auc_is_of_the_second_class(embeddings):
    images, classes, labels = embeddings
    found = measure(images, classes[:2], labels % 2, "roc_auc")
    assert found.values["roc_auc"] == roc_auc((100 * images @ classes[:2].T).softmax(1), labels % 2)
    assert "top5" not in found.values
    with pytest.raises(ValueError, match=r"labels: all 60 are 1, need both"):
        measure(images, classes[:2], torch.ones(60, dtype=torch.int64), "roc_auc")


def test_ranks_are_kept_where_the_softmax_underflows():
    images = torch.tensor([[1.0, 0.0]])
    angles = torch.tensor([0.0, 2.8, 2.7, 2.9, 3.0, 3.1, 2.6])  # all but the first come out as 0
    classes = torch.stack([angles.cos(), angles.sin()], 1)
    assert ((100 * images @ classes.T).softmax(1) == 0).sum() > 1
    assert measure(images, classes, torch.tensor([5]), "top1").values["top5"] == 0
    assert measure(images, classes, torch.tensor([6]), "top1").values["top5"] == 1


def test_agreement_is_the_share_of_images_with_one_answer():
    answers = [torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 0, 3]), torch.tensor([0, 0, 2, 3])]
    assert agreement(answers) == 0.5 and agreement(answers[:2]) == 0.75

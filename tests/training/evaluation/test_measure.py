"""From embeddings to metrics and rows."""

import math

import pytest
import torch
import torch.nn.functional as F

from training.evaluation.measure import agreement, measure, task_metrics
from training.evaluation.metrics import eleven_point_map, mean_per_class_accuracy, roc_auc, top_k_accuracy


@pytest.fixture
def embeddings():
    generator = torch.Generator().manual_seed(0)
    images, classes = (F.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (60, 7))
    return images, classes, torch.randint(0, 6, (60,), generator=generator)  # no image of the last class


def test_all_metrics_of_single_labels(embeddings):
    images, classes, labels = embeddings
    measurement = measure(images, classes, labels, task_metrics(labels, "top1"), with_details=True)
    scores, details = images @ classes.T, measurement.details
    assert measurement.values == {
        "top1": top_k_accuracy(scores, labels),
        "top5": top_k_accuracy(scores, labels, 5),
        "mean_per_class": mean_per_class_accuracy(scores, labels),
    }
    assert torch.equal(measurement.predictions, scores.argmax(1)) and set(measurement.intervals) == {"top1", "top5"}
    assert details.confusion.sum() == 60
    assert details.confusion.diag().sum() == round(60 * measurement.values["top1"])
    assert math.isnan(details.per_class[6])
    assert details.per_class[2] == (scores.argmax(1)[labels == 2] == 2).double().mean()


def test_several_labels_are_scored_by_the_softmax_over_classes(embeddings):
    images, classes, labels = embeddings
    targets = F.one_hot(labels, 7).to(torch.int8)
    targets[:, 2] = 1
    metrics = task_metrics(targets, "11_point_map")
    measurement = measure(images, classes, targets, metrics, with_details=True)
    probabilities = (100 * images @ classes.T).softmax(1)
    assert measurement.values["11_point_map"] == eleven_point_map(probabilities, targets)
    assert measurement.values["11_point_map"] != eleven_point_map(images @ classes.T, targets)
    correct = targets[torch.arange(60), probabilities.argmax(1)].double().mean().item()
    assert measurement.values["top1"] == correct and measurement.details.confusion is None
    assert measurement.details.per_class[2] == 1 and math.isnan(measurement.details.per_class[6])


def test_several_labels_have_no_mean_per_class(embeddings):
    targets = F.one_hot(embeddings[2], 7).to(torch.int8)
    assert task_metrics(targets, "mean_per_class") == task_metrics(targets, "top1") == ("top1", "11_point_map")


def test_roc_auc_scores_the_second_class(embeddings):
    images, classes, labels = embeddings
    metrics = task_metrics(labels % 2, "roc_auc")
    values = measure(images, classes[:2], labels % 2, metrics).values
    assert values["roc_auc"] == roc_auc((100 * images @ classes[:2].T).softmax(1), labels % 2)
    assert list(values) == ["top1", "mean_per_class", "roc_auc"]  # no top-5 of two classes
    with pytest.raises(ValueError, match=r"labels: all 60 are 1, need both"):
        measure(images, classes[:2], torch.ones(60, dtype=torch.int64), metrics)


def test_rows_have_the_fields_of_the_caller_and_an_interval_for_shares(embeddings):
    images, classes, labels = embeddings
    measurement = measure(images, classes, labels, ("top1", "mean_per_class"))
    top1, mean = measurement.rows(model="m", set="s", language="zh", seed=3)
    assert (top1.metric, top1.model, top1.set, top1.language, top1.seed) == ("top1", "m", "s", "zh", 3)
    assert top1.value == measurement.values["top1"] and top1.interval == measurement.intervals["top1"]
    assert mean.metric == "mean_per_class" and mean.interval is None and measurement.details is None


def test_ranks_are_kept_where_the_softmax_underflows():
    images = torch.tensor([[1.0, 0.0]])
    angles = torch.tensor([0.0, 2.8, 2.7, 2.9, 3.0, 3.1, 2.6])  # the softmax of all but the first is 0
    classes = torch.stack([angles.cos(), angles.sin()], 1)
    assert ((100 * images @ classes.T).softmax(1) == 0).sum() > 1
    assert measure(images, classes, torch.tensor([5]), ["top5"]).values["top5"] == 0
    assert measure(images, classes, torch.tensor([6]), ["top5"]).values["top5"] == 1


def test_agreement_is_the_share_of_images_with_equal_predictions():
    predictions = [torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 0, 3]), torch.tensor([0, 0, 2, 3])]
    assert agreement(predictions) == 0.5 and agreement(predictions[:2]) == 0.75

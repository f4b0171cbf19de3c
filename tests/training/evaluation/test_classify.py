from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Image, List, Value

from training.config import DataConfig, EvalConfig
from training.evaluation import classify
from training.evaluation.classify import class_embeddings, measure, task_metrics
from training.evaluation.metrics import eleven_point_map, roc_auc


class Scripted:
    """A model that embeds texts by a table and records how many it encodes at once."""

    def __init__(self, table):
        self.table, self.counts = table, []

    def encode_texts(self, texts, truncate=False):
        self.counts.append(len(texts))
        return torch.tensor([self.table[text] for text in texts])


def test_many_names_are_encoded_in_parts_of_8192_texts():
    names = [f"name {number}" for number in range(3000)]
    templates = ("{}", "a {}", "the {}")
    vectors = torch.randn(3000, 3, 4, generator=torch.Generator().manual_seed(0))
    table = {}
    for name, rows in zip(names, vectors.tolist(), strict=True):
        for template, row in zip(templates, rows, strict=True):
            table[template.format(name)] = row
    model = Scripted(table)
    found = class_embeddings(model, names, templates)
    torch.testing.assert_close(found, F.normalize(vectors.mean(1), dim=1))
    assert len(model.counts) == 2
    assert sum(model.counts) == 9000
    assert max(model.counts) <= 8192


@pytest.fixture
def embeddings():
    """Embeddings of 60 images and 7 classes, and the class of each image, which is never the last."""
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(60, 8, generator=generator), dim=1)
    classes = F.normalize(torch.randn(7, 8, generator=generator), dim=1)
    labels = torch.randint(0, 6, (60,), generator=generator)
    return images, classes, labels


@pytest.mark.parametrize("metric", ["11_point_map", "mean_per_class"])
def test_images_with_several_labels_have_metrics_of_their_own(metric):
    targets = torch.ones(2, 7, dtype=torch.int8)
    assert task_metrics(targets, metric) == ("top1", "11_point_map")


def test_several_labels_are_scored_by_the_softmax_over_classes(embeddings):
    images, classes, labels = embeddings
    targets = F.one_hot(labels, 7).to(torch.int8)
    targets[:, 2] = 1
    values = measure(images, classes, targets, ("top1", "11_point_map")).values
    probabilities = (100 * images @ classes.T).softmax(1)
    assert values["11_point_map"] == eleven_point_map(probabilities, targets)
    assert values["11_point_map"] != eleven_point_map(images @ classes.T, targets)
    correct = targets[torch.arange(60), probabilities.argmax(1)]
    assert values["top1"] == correct.double().mean()


def test_roc_auc_scores_the_second_class(embeddings):
    images, classes, labels = embeddings
    labels = labels % 2
    values = measure(images, classes[:2], labels, task_metrics(labels, "roc_auc")).values
    assert values["roc_auc"] == roc_auc((100 * images @ classes[:2].T).softmax(1), labels)
    assert list(values) == ["top1", "mean_per_class", "roc_auc"]  # no top-5 of two classes


@pytest.fixture
def config(corpus):
    return EvalConfig(
        data=str(corpus / "unseen_style.parquet"),
        class_names=str(corpus / "class_names.json"),
    )


@pytest.mark.parametrize(
    ("changes", "language", "message"),
    [({"class_names": "cifar-10"}, "en", r"label: eval\.data"), ({}, "fr", "language: .*'fr'")],
)
def test_class_names_that_do_not_fit_are_reported_before_training(
    config, processor, changes, language, message
):
    data = DataConfig(train="a", caption_columns={language: "text"})
    with pytest.raises(ValueError, match=message):
        classify.make_evaluate(replace(config, **changes), processor, data)


def test_metrics_of_training_are_means_over_the_languages(config, teacher):
    evaluate = classify.make_evaluate(config, teacher.processor, DataConfig(train="a.parquet"))
    metrics = evaluate(teacher.model)
    assert metrics.keys() == {"top1", "top1_en", "top1_zh", "top5", "top5_en", "top5_zh"}
    assert metrics["top5"] == pytest.approx((metrics["top5_en"] + metrics["top5_zh"]) / 2)


def test_training_measures_top1_of_images_with_several_labels(teacher, images, tmp_path):
    features = Features({"image": Image(), "label": List(Value("string"))})
    rows = {"image": images[:3], "label": [["frog", "cat"], ["dog"], ["fox"]]}
    Dataset.from_dict(rows, features).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "names.txt").write_text("frog\ncat\ndog\nfox\nowl\nbear\n")
    config = EvalConfig(data=str(tmp_path / "a.parquet"), class_names=str(tmp_path / "names.txt"))
    data = DataConfig(train="a.parquet", caption_columns={"en": "en"})
    metrics = classify.make_evaluate(config, teacher.processor, data)(teacher.model)
    assert metrics.keys() == {"top1", "top1_en"}

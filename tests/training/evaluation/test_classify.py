import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Image, List, Value

from training.config import DataConfig, EvalConfig
from training.evaluation import classify
from training.evaluation.classify import class_embeddings, measure, task_metrics
from training.evaluation.metrics import eleven_point_map, roc_auc
from training.teachers import DualEncoder


@pytest.fixture(scope="module")
def model(teacher_folder):
    return DualEncoder.from_pretrained(teacher_folder)


class Scripted:
    """A model that embeds texts by a table and records how many it encodes at once."""

    def __init__(self, table):
        self.table, self.counts = table, []

    def encode_texts(self, texts):
        self.counts.append(len(texts))
        return torch.tensor([self.table[text] for text in texts])


def test_many_names_are_encoded_in_parts_of_8192_texts():
    names = [f"name {number}" for number in range(3000)]
    templates = ("{}", "a {}", "the {}")
    texts = [template.format(name) for name in names for template in templates]
    vectors = torch.randn(3000, 3, 4, generator=torch.Generator().manual_seed(0))
    table = dict(zip(texts, vectors.flatten(0, 1).tolist(), strict=True))
    model = Scripted(table)
    found = class_embeddings(model, names, templates)
    torch.testing.assert_close(found, F.normalize(vectors.mean(1), dim=1))
    assert sum(model.counts) == 9000
    assert max(model.counts) <= 8192
    assert len(model.counts) == 2


@pytest.fixture
def embeddings():
    generator = torch.Generator().manual_seed(0)
    images, classes = (F.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (60, 7))
    return (
        images,
        classes,
        torch.randint(0, 6, (60,), generator=generator),
    )  # no image of the last class


def test_several_labels_are_scored_by_the_softmax_over_classes(embeddings):
    images, classes, labels = embeddings
    targets = F.one_hot(labels, 7).to(torch.int8)
    targets[:, 2] = 1
    metrics = task_metrics(targets, "11_point_map")
    assert metrics == task_metrics(targets, "mean_per_class") == ("top1", "11_point_map")
    measurement = measure(images, classes, targets, metrics)
    probabilities = (100 * images @ classes.T).softmax(1)
    assert measurement.values["11_point_map"] == eleven_point_map(probabilities, targets)
    assert measurement.values["11_point_map"] != eleven_point_map(images @ classes.T, targets)
    correct = targets[torch.arange(60), probabilities.argmax(1)].double().mean().item()
    assert measurement.values["top1"] == correct


def test_roc_auc_scores_the_second_class(embeddings):
    images, classes, labels = embeddings
    metrics = task_metrics(labels % 2, "roc_auc")
    values = measure(images, classes[:2], labels % 2, metrics).values
    assert values["roc_auc"] == roc_auc((100 * images @ classes[:2].T).softmax(1), labels % 2)
    assert list(values) == ["top1", "mean_per_class", "roc_auc"]  # no top-5 of two classes


def test_wrong_names_and_languages_are_reported_before_training(corpus, processor):
    data = str(corpus / "unseen_style.parquet")
    names = str(corpus / "class_names.json")
    wrong = EvalConfig(data=data, class_names="cifar-10")
    with pytest.raises(ValueError, match=r"label: eval\.data"):
        classify.make_evaluate(wrong, processor, DataConfig(train="a"))
    french = DataConfig(train="a", caption_columns={"fr": "text"})
    with pytest.raises(ValueError, match=r"language: .*'fr'"):
        classify.make_evaluate(EvalConfig(data=data, class_names=names), processor, french)


def test_metrics_of_training_are_means_over_the_languages(corpus, model):
    config = EvalConfig(
        data=str(corpus / "unseen_style.parquet"), class_names=str(corpus / "class_names.json")
    )
    metrics = classify.make_evaluate(config, model.processor, DataConfig(train="a.parquet"))(
        model.model
    )
    assert set(metrics) == {f"top{k}{suffix}" for k in (1, 5) for suffix in ("", "_en", "_zh")}
    assert metrics["top5"] == pytest.approx((metrics["top5_en"] + metrics["top5_zh"]) / 2)


def test_training_measures_top1_of_images_with_several_labels(model, images, tmp_path):
    features = Features({"image": Image(), "label": List(Value("string"))})
    rows = {"image": images[:3], "label": [["frog", "cat"], ["dog"], ["fox"]]}
    Dataset.from_dict(rows, features).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "names.txt").write_text("frog\ncat\ndog\nfox\nowl\nbear\n")
    config = EvalConfig(data=str(tmp_path / "a.parquet"), class_names=str(tmp_path / "names.txt"))
    data = DataConfig(train="a.parquet", caption_columns={"en": "en"})
    metrics = classify.make_evaluate(config, model.processor, data)(model.model)
    assert set(metrics) == {"top1", "top1_en"}

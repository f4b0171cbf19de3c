"""How many classes of a classifier a model still names."""

import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from tests.color_classifier import COLORS, ColorClassifier
from training.evaluation.sets.class_names import ClassNames
from training.studies.photographs import classes
from training.studies.rows import open_rows
from training.teachers.classifier import Classifier
from training.utils.results import RESULTS_FILE, Results

NAMES = ClassNames({"en": list(COLORS), "zh": ["红", "绿", "蓝"]})
SAMPLES = [*COLORS, "gray", "red"]


class Colors(ColorClassifier):
    """A model, and a classifier, of the three colors; the model has never learnt the Chinese word for blue."""

    def probabilities(self, images):
        return (10 * images.float().mean((2, 3)) / 255).softmax(-1)

    def encode_images(self, rows):
        images = rows.cast_column("image", ImageFeature())["image"]
        return torch.tensor([image.getpixel((0, 0)) for image in images]) / 255

    def encode_texts(self, texts):
        words = [*COLORS, "红", "绿"]
        numbers = [next((number for number, word in enumerate(words) if word in text), None) for text in texts]
        return torch.stack([-torch.ones(3) if number is None else torch.eye(3)[number % 3] for number in numbers])


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(Classifier, "from_pretrained", lambda *_: Colors())
    monkeypatch.setattr("training.evaluation.sets.imagenet.imagenet_names", lambda _: (NAMES, {}))
    path = tmp_path / "photographs.parquet"
    Dataset.from_dict({"image": [Image.new("RGB", (8, 8), color) for color in SAMPLES]}).to_parquet(path)
    return path


def test_photographs_of_no_sure_class_are_left_out(source):
    rows = open_rows(str(source), ["image"], "images")
    photographs, found = classes.sure_classes(rows, "colors", 3)
    assert len(photographs) == 4 and found.tolist() == [0, 1, 2, 0]
    with pytest.raises(ValueError, match=r"^classifier: 'colors' has 3 classes, expected 1000"):
        classes.sure_classes(rows, "colors", 1000)
    with pytest.raises(ValueError, match=r"^images: the classifier is sure of none of 1 photographs"):
        classes.sure_classes(rows.select([3]), "colors", 3)


def test_the_study_writes_a_table(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "training.evaluation.models.zero_shot_model.ZeroShotModel.from_pretrained", lambda folder: Colors()
    )
    arguments = ["--images", str(source), "--classifier", "colors", "--models", "mine=folder"]
    classes.main([*arguments, "--output_dir", str(tmp_path / "study")])
    results = Results.read(tmp_path / "study" / RESULTS_FILE)
    assert results.mean(metric="top1", language="en") == 1
    assert results.mean(metric="top1", language="zh") == pytest.approx(3 / 4)
    shown = capsys.readouterr().out
    assert "4 of 5 photographs" in shown and "| mine | 100.0 | 75.0 |" in shown


def test_a_study_without_a_model_is_refused(capsys):
    with pytest.raises(SystemExit):
        classes.main(["--images", "a", "--classifier", "b", "--output_dir", "c"])
    assert "models: there is none to measure" in capsys.readouterr().err

"""The loss that keeps the classes of a classifier, and the classifier itself."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import (
    CLIPImageProcessor,
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
)

from tests.tiny import IMAGE_SIZE, NO_DROPOUT, PROJECTION_DIM, RESNET, VIT, make_model, recipe_fields
from training import align
from training.config import AlignRecipe, AugmentConfig, DataConfig, SourceConfig
from training.data import CaptionTokenizer, PairDataset, tokenize
from training.data.transforms import Augment, Normalize
from training.engine.rotation import rotate
from training.tasks import AlignTask
from training.tasks.losses import class_losses
from training.teachers.classifier import Classifier, ClassTargets

pytestmark = pytest.mark.slow

NUM_CLASSES = 5
NAMES = {"en": ["cat", "dog", "frog", "horse", "ship"], "zh": ["猫", "狗", "青蛙", "马", "船"]}
CONFIG = {name: value for name, value in RESNET.items() if name != "model_type"}


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(**CONFIG, num_labels=NUM_CLASSES)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=48).save_pretrained(folder)
    return folder


@pytest.fixture
def classifier(classifier_folder) -> Classifier:
    return Classifier.from_pretrained(str(classifier_folder), torch.float32, torch.device("cpu"))


def test_each_image_has_the_probabilities_of_the_classifier(classifier, classifier_folder):
    images = torch.randint(0, 256, (3, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
    found = classifier.probabilities(images)
    model = ResNetForImageClassification.from_pretrained(classifier_folder).eval()
    processor = CLIPImageProcessor.from_pretrained(classifier_folder)
    with torch.no_grad():
        expected = model(Normalize.from_processor(processor, 48)(images)).logits.softmax(-1)
    torch.testing.assert_close(found, expected)
    assert found.shape == (3, NUM_CLASSES) and classifier.num_classes == NUM_CLASSES


def test_what_is_no_classifier_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^classifier: 'no folder' is neither a folder nor on the Hub"):
        Classifier.from_pretrained("no folder", torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"^classifier: '.*empty' is no image classifier"):
        (tmp_path / "empty").mkdir()
        Classifier.from_pretrained(str(tmp_path / "empty"), torch.float32, torch.device("cpu"))
    ResNetModel(ResNetConfig(**CONFIG)).save_pretrained(tmp_path / "backbone")
    with pytest.raises(ValueError, match=r"^classifier: '.*backbone' lacks 2 weights"):
        Classifier.from_pretrained(str(tmp_path / "backbone"), torch.float32, torch.device("cpu"))


def test_the_loss_is_least_for_images_whose_similarities_are_the_probabilities():
    names = torch.eye(NUM_CLASSES).expand(2, -1, -1)
    images = torch.nn.functional.normalize(torch.rand(4, NUM_CLASSES), dim=-1)
    scale = torch.tensor(7.0)
    probabilities = (scale * images).softmax(-1)
    least = class_losses(images, names, probabilities, scale)
    torch.testing.assert_close(least, -(probabilities * probabilities.log()).sum(-1))  # their entropy
    assert (class_losses(images.flip(0), names, probabilities, scale) > least).all()
    assert not class_losses(images, names, torch.zeros_like(probabilities), scale).any()


# in stage 2


def make_task(
    rows: Dataset, tokenizer, classifier: Classifier, augment: AugmentConfig, classify=True, **fields
) -> AlignTask:
    sources = [SourceConfig(train="photographs"), SourceConfig(train="drawings", classify=classify)]
    data = DataConfig(train=None, sources=sources, in_memory=True)
    recipe = AlignRecipe(output_dir="", data=data, student="s", classifier="c", classifier_weight=0.5, **fields)
    names = torch.randn(2, NUM_CLASSES, PROJECTION_DIM, generator=torch.Generator().manual_seed(0))
    normalize = Normalize(IMAGE_SIZE, (0.5,) * 3, (0.5,) * 3)
    student = make_model(VIT, NO_DROPOUT, seed=3)
    templates = {"en": ("{}", "a photo of a {}."), "zh": ("{}", "一张{}的照片。")}
    texts = [template.format(name) for code in templates for template in templates[code] for name in NAMES[code]]
    tokens = {name: ids.unflatten(0, (2, 2, NUM_CLASSES)) for name, ids in tokenize(tokenizer, texts, 32).items()}
    classes = ClassTargets(classifier, names, tokens["input_ids"], tokens["attention_mask"])
    task = AlignTask(student, Augment(augment, 0), normalize, None, recipe, ["en", "zh"], classes=classes)
    task.dataset = PairDataset([rows, rows], data, CaptionTokenizer(tokenizer, 32), IMAGE_SIZE)
    return task.eval()


def make_batch(task: AlignTask, rows: list[int]):
    batch = task.dataset.collate([(row, 0, 0, task.dataset[row]) for row in rows])
    batch.pop("skipped")
    return batch


@pytest.fixture
def rows(train_rows) -> Dataset:
    return train_rows.select(range(6))


def gradients(task: AlignTask, batch) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    task(batch)["classes"].backward()
    return task.student.visual_projection.weight.grad, task.student.text_projection.weight.grad


def test_the_loss_is_weighted_and_trains_both_towers(rows, tokenizer, classifier):
    task = make_task(rows, tokenizer, classifier, AugmentConfig())
    batch = make_batch(task, list(range(6)))
    losses = task(batch)
    contrastive = (losses["contrastive_en"] + losses["contrastive_zh"]) / 2
    torch.testing.assert_close(losses["loss"], contrastive + 0.5 * losses["classes"])
    assert all(gradient is not None and gradient.any() for gradient in gradients(task, batch))
    assert task.student.logit_scale.grad is None
    assert all(parameter.grad is None for parameter in classifier.model.parameters())
    assert not any(name.startswith("classes") for name in task.state_dict())


@pytest.mark.parametrize("frozen", ["text", "visual"])
def test_a_frozen_tower_does_not_learn(rows, tokenizer, classifier, frozen):
    towers = {"text": "text_model", "visual": "vision_model"}
    fields = {"freeze": [towers[frozen], f"{frozen}_projection"]}
    task = make_task(rows, tokenizer, classifier, AugmentConfig(), **fields)
    before = task.get_buffer("class_names").clone()
    visual, text = gradients(task, make_batch(task, [0, 1, 2]))
    assert (visual is None) == (frozen == "visual") and (text is None) == (frozen == "text")
    assert torch.equal(task.get_buffer("class_names"), before) == (frozen == "text")


def test_the_drawn_names_are_renewed_and_the_others_stay(rows, tokenizer, classifier, monkeypatch):
    monkeypatch.setattr("training.tasks.align.CLASS_NAMES", 2)
    task = make_task(rows, tokenizer, classifier, AugmentConfig())
    batch, before = make_batch(task, [0, 1, 2]), task.get_buffer("class_names").clone()
    for number in (0, 1):
        task.before_batch(number)
        task(batch)
        drawn = task._drawn_classes
        texts = [[("{}", "a photo of a {}.")[number].format(NAMES["en"][index]) for index in drawn]]
        texts += [[("{}", "一张{}的照片。")[number].format(NAMES["zh"][index]) for index in drawn]]
        for language, listed in enumerate(texts):
            tokens = tokenize(tokenizer, listed, 32)
            expected = task.student.get_text_features(**tokens).pooler_output
            before[language, drawn] = torch.nn.functional.normalize(expected.detach(), dim=-1)
        torch.testing.assert_close(task.get_buffer("class_names"), before)
    assert torch.equal(task.state_dict()["class_names"], task.get_buffer("class_names"))  # a resumed run goes on


def test_the_classifier_sees_photographs_before_they_are_redrawn(rows, tokenizer, classifier):
    seen: list[torch.Tensor] = []
    classifier.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    for augment in (AugmentConfig(), AugmentConfig(paint=1.0, flip=1.0)):
        task = make_task(rows, tokenizer, classifier, augment)
        task(make_batch(task, [0, 1]))
    assert torch.equal(*seen)


@pytest.mark.parametrize("classify", [True, False])
def test_a_source_may_be_left_out(rows, tokenizer, classifier, classify):
    task = make_task(rows, tokenizer, classifier, AugmentConfig(), classify)
    batches = {"photographs": [0, 1, 2], "drawings": [6, 7, 8], "both": [0, 1, 2, 6, 7, 8]}
    losses = {name: task(make_batch(task, keys))["classes"] for name, keys in batches.items()}
    assert losses["photographs"] > 0 and bool(losses["drawings"]) == classify
    torch.testing.assert_close(losses["both"], (losses["photographs"] + losses["drawings"]) / 2)


def test_the_precision_is_that_of_the_classifier(classifier_folder):
    images = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    for dtype in (torch.float32, torch.bfloat16):
        classifier = Classifier.from_pretrained(str(classifier_folder), dtype, torch.device("cpu"))
        expected = classifier.probabilities(images)
        with torch.autocast("cpu", dtype=torch.float16):
            assert torch.equal(classifier.probabilities(images), expected)


def test_a_processor_without_a_crop_states_the_size(classifier_folder, tmp_path):
    shutil.copytree(classifier_folder, tmp_path / "classifier")
    ConvNextImageProcessor(size={"shortest_edge": 40}).save_pretrained(tmp_path / "classifier")
    classifier = Classifier.from_pretrained(str(tmp_path / "classifier"), torch.float32, torch.device("cpu"))
    assert classifier.normalize.image_size == 40


def test_a_rotated_student_keeps_the_loss(rows, tokenizer, classifier):
    task = make_task(rows, tokenizer, classifier, AugmentConfig())
    batch = make_batch(task, [0, 1, 2])
    before = task(batch)["classes"]
    rotation = torch.linalg.qr(torch.randn(PROJECTION_DIM, PROJECTION_DIM, dtype=torch.float64))[0]
    rotate(task.student, rotation)
    task.after_rotation(rotation)
    torch.testing.assert_close(task(batch)["classes"], before)


def test_a_run_names_the_classes_with_its_student(tmp_path, corpus, processor, classifier_folder):
    classifier_folder = shutil.copytree(classifier_folder, tmp_path / "classifier")
    make_model(VIT, NO_DROPOUT, seed=3).save_pretrained(tmp_path / "student")
    processor.save_pretrained(tmp_path / "student")
    names = tmp_path / "names.json"
    names.write_text('[{"en": "cat", "zh": "猫"}, {"en": "frog", "zh": "青蛙"}]', encoding="utf-8")
    fields = recipe_fields(tmp_path / "out", corpus / "train.parquet", student=str(tmp_path / "student"))
    fields |= {
        "save_every": 1,
        "classifier": str(classifier_folder),
        "classifier_weight": 1.0,
        "classifier_names": str(names),
    }
    with pytest.raises(ValueError, match=r"^classifier_names: cannot name the classes in \['en', 'zh'\].*Name a file"):
        align.run(AlignRecipe(**fields | {"classifier_names": "nowhere.json"}))
    with pytest.raises(ValueError, match=r"^classifier_names: there are 2 names, and '.*' has 5 classes"):
        align.run(AlignRecipe(**fields))
    listed = ", ".join(f'{{"en": "{name}", "zh": "{name}子"}}' for name in "abcde")
    names.write_text(f"[{listed}]", encoding="utf-8")
    align.run(AlignRecipe(**fields, overwrite=True))
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["teacher_license"] == "unknown"
    (classifier_folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    align.run(AlignRecipe(**fields, overwrite=True))
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["teacher_license"] == "mit"
    with pytest.raises(ValueError, match="weights of the classifier"):
        other = ResNetForImageClassification(ResNetConfig(**CONFIG, num_labels=NUM_CLASSES))
        other.save_pretrained(classifier_folder)
        align.run(AlignRecipe(**fields, resume=True))
    assert '"classes"' in (tmp_path / "out" / "log.jsonl").read_text(encoding="utf-8")


def test_a_resumed_run_goes_on_with_the_names_to_the_bit(tmp_path, corpus, processor, classifier_folder, monkeypatch):
    monkeypatch.setattr("training.tasks.align.CLASS_NAMES", 2)  # most names are those of an earlier step
    make_model(VIT, NO_DROPOUT, seed=3).save_pretrained(tmp_path / "student")
    processor.save_pretrained(tmp_path / "student")
    names = [{"en": english, "zh": chinese} for english, chinese in zip(NAMES["en"], NAMES["zh"], strict=True)]
    (tmp_path / "names.json").write_text(json.dumps(names), encoding="utf-8")
    fields = recipe_fields(tmp_path / "whole", corpus / "train.parquet", student=str(tmp_path / "student"))
    fields |= {"max_steps": 4, "save_every": 2, "warmup_steps": 1, "classifier": str(classifier_folder)}
    recipe = AlignRecipe(**fields, classifier_weight=1.0, classifier_names=str(tmp_path / "names.json"))
    align.run(recipe)
    shutil.copytree(tmp_path / "whole" / "checkpoint-000002", tmp_path / "resumed" / "checkpoint-000002")
    align.run(replace(recipe, output_dir=str(tmp_path / "resumed"), resume=True))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert weights[0] == weights[1]

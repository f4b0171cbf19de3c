"""Frozen and trained layers together equal the model, and training is reproducible."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file, save_file

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import WHOLE_EFFICIENTNET, make_image_processor, make_model
from training.config import DataConfig, recipe_from_args
from training.demo.make_teacher import train_tokenizer
from training.demo.packaged_weights import PackagedFile
from training.demo.photo_teacher import batches
from training.demo.photo_teacher.__main__ import main
from training.demo.photo_teacher.assemble import TRAINED
from training.demo.photo_teacher.batches import draw_step, load_training_data
from training.demo.photo_teacher.encoders import Encoder, UpperEncoder
from training.demo.photo_teacher.features import FeatureMaker, batches_by_length, reduce
from training.demo.photo_teacher.lite2 import Lite2
from training.demo.photo_teacher.recipe import PhotoTeacherRecipe
from training.demo.photo_teacher.train import train
from training.demo.photo_teacher.trained import load_trained, save_trained, snapshot
from training.demo.photo_teacher.validate import validate
from training.utils.files import REPO_ROOT

COLOURS = {"red": "红色", "green": "绿色", "blue": "蓝色", "white": "白色"}

RECIPE = REPO_ROOT / "training" / "demo" / "photo_teacher" / "recipe.yaml"


def noisy_image(colour: str) -> Image.Image:
    noise = Image.effect_noise((64, 64), 60).convert("RGB")
    return Image.blend(Image.new("RGB", (64, 64), colour), noise, 0.3)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Four captioned images for training and validation, 24 class images, two images without captions."""
    folder = tmp_path_factory.mktemp("sources")
    images = [noisy_image(colour) for colour in COLOURS]
    captions = {
        "en": [[f"a {name} square", f"something {name} and long"] for name in COLOURS],
        "zh": [[f"一个{name}的方块", f"{name}"] for name in COLOURS.values()],
    }
    Dataset.from_dict({"image": images, **captions}).to_parquet(folder / "captioned.parquet")
    names = {"en": [*COLOURS] * 6, "zh": [*COLOURS.values()] * 6}
    Dataset.from_dict({"image": images * 6, **names}).to_parquet(folder / "classes.parquet")
    Dataset.from_dict({"image": images[:2]}).to_parquet(folder / "unlabelled.parquet")
    return folder


@pytest.fixture
def recipe(sources, tmp_path):
    return PhotoTeacherRecipe(
        output_dir=str(tmp_path), data=DataConfig(train=str(sources / "captioned.parquet")),
        validation=str(sources / "captioned.parquet"), class_images=[str(sources / "classes.parquet")],
        unlabelled=[str(sources / "unlabelled.parquet")], held_out_classes=0.25, batch_size=4, class_batch_size=3,
        text_layers=1, head_steps=12, max_steps=4, head_learning_rate=1e-2, learning_rate=1e-3, warmup_steps=2,
        log_every=1, eval_every=2, dropout=0.0, num_names=5,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def imagenet():
    names = {"en": [f"thing {number}" for number in range(10)], "zh": [f"东西{number}" for number in range(10)]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "object_names", lambda: names)
        yield


@pytest.fixture(scope="module")
def feature_folder(tmp_path_factory):
    """Features that the tests share, because those of a source do not depend on the training."""
    return tmp_path_factory.mktemp("features")


def make_parts(recipe, folder):
    model = make_model(WHOLE_EFFICIENTNET, seed=3)
    processor = DCCLIPProcessor(make_image_processor(), train_tokenizer([*COLOURS, *COLOURS.values()], 300))
    generator = torch.Generator().manual_seed(0)
    classifier = Lite2({}, torch.randn(10, 1280, generator=generator), torch.zeros(10))
    maker = FeatureMaker(model, processor, recipe.text_layers, folder)
    return model, processor, load_training_data(recipe, maker, classifier)


def test_lower_and_upper_layers_together_equal_the_model(recipe, sources, feature_folder):
    model, processor, data = make_parts(recipe, feature_folder)
    encoder = UpperEncoder(model, recipe.text_layers).eval()
    rows = Dataset.from_parquet(str(sources / "captioned.parquet"))
    texts = [text for cell in rows["zh"] for text in cell]
    inputs = processor(images=[row["image"] for row in rows], text=texts, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    assert torch.allclose(encoder.all_images(data.captioned.views[0]), outputs.image_embeds, atol=2e-3)
    assert torch.allclose(encoder.all_texts(data.captioned.captions["zh"]), outputs.text_embeds, atol=2e-3)


def test_pooled_features_equal_the_outputs_of_the_untrained_upper_layers(recipe, feature_folder):
    model, _, data = make_parts(recipe, feature_folder)
    pooled, upper = Encoder(model).eval(), UpperEncoder(model, recipe.text_layers).eval()
    views, captions = data.captioned.views, data.captioned.captions["en"]
    assert len(views) == 2 and not torch.allclose(views[0].pooled, views[1].pooled)
    for view in views:
        assert torch.allclose(pooled.all_images(view), upper.all_images(view), atol=2e-3)
    assert torch.allclose(pooled.all_texts(captions), upper.all_texts(captions), atol=2e-3)


@pytest.mark.slow
def test_training_is_reproducible_and_features_are_computed_once(recipe, tmp_path, monkeypatch):
    recipe = replace(recipe, head_steps=3, max_steps=2)
    first, _, data = make_parts(recipe, tmp_path / "features")
    before = {name: value.clone() for name, value in first.state_dict().items()}
    torch.manual_seed(0)
    metrics = validate(train(first, data, recipe), data)
    monkeypatch.setattr(FeatureMaker, "_compute_images", None)
    monkeypatch.setattr(FeatureMaker, "_compute_texts", None)
    second, _, stored = make_parts(recipe, tmp_path / "features")
    torch.manual_seed(0)
    assert validate(train(second, stored, recipe), stored) == metrics
    assert all(torch.equal(first.state_dict()[name], value) for name, value in second.state_dict().items())
    changed = {name for name, value in first.state_dict().items() if not torch.equal(value, before[name])}
    assert any("encoder.layer.1." in name for name in changed) and any("conv_head" in name for name in changed)
    assert not any("encoder.layer.0." in name or "blocks.0." in name or "running_" in name for name in changed)


@pytest.mark.slow
def test_the_loss_falls_and_metrics_are_fractions(recipe, tmp_path, feature_folder):
    recipe = replace(recipe, max_steps=1)
    model, _, data = make_parts(recipe, feature_folder)
    metrics = validate(train(model, data, recipe), data)
    lines = [json.loads(line) for line in (tmp_path / "log_heads.jsonl").read_text().splitlines()]
    losses = [line["captions"] for line in lines if "captions" in line]
    assert losses[-1] < losses[0]
    assert {"t2i_recall@1_en", "i2t_recall@1_zh", "seen_top1_en"} <= set(metrics)
    assert all(0 <= value <= 1 for value in metrics.values())
    assert model.logit_scale <= math.log(100) + 1e-6


@pytest.mark.slow
def test_the_third_phase_trains_the_image_tower_alone(recipe, tmp_path, feature_folder):
    recipe = replace(recipe, start="earlier", image_steps=2, small_views=1, text_text_weight=0.0)
    model, _, data = make_parts(recipe, feature_folder)
    before = snapshot(model)
    metrics = validate(train(model, data, recipe), data)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "visual_projection.weight" in changed and any("conv_head" in name for name in changed)
    assert not any(name.startswith("text_") or "blocks.0." in name or "running_" in name for name in changed)
    assert not (tmp_path / "log_heads.jsonl").exists() and (tmp_path / "log_images.jsonl").exists()
    assert {"seen_top1_en", "small_seen_top1_en"} <= set(metrics)


def test_small_views_show_less_and_keep_what_the_classifier_reads(recipe, feature_folder):
    _, _, data = make_parts(replace(recipe, small_views=1), feature_folder)
    assert len(data.captioned.views) == 3 and len(data.classes.views) == len(data.unlabelled) == 2
    whole, small = data.classes.views
    assert torch.equal(whole.pooled, small.pooled) and not torch.equal(whole.maps, small.maps)
    drawn = [draw_step(data, replace(recipe, small_views=1), phase, step) for phase in (0, 2) for step in range(20)]
    assert {step.view for step in drawn[:20]} == {0, 1} and {step.view for step in drawn[20:]} == {0, 1, 2}
    assert {step.other_view for step in drawn[:20]} == {0} and {step.other_view for step in drawn[20:]} == {0, 1}


def test_images_are_reduced_but_never_enlarged():
    sizes = {reduce(Image.new("RGB", (300, 200)), np.random.default_rng(seed)).size for seed in range(50)}
    edges = [min(size) for size in sizes]
    assert len(sizes) > 10 and min(edges) >= 28 and max(edges) <= 72
    assert all(abs(width / height - 1.5) < 0.04 for width, height in sizes)
    assert reduce(Image.new("RGB", (20, 20)), np.random.default_rng(0)).size == (20, 20)


def test_a_start_without_a_third_phase_is_refused():
    with pytest.raises(ValueError, match=r"start: leaves out the first two phases\. Set image_steps too"):
        PhotoTeacherRecipe(output_dir="x", data=DataConfig(train="x"), validation="y", start="z")


def test_trained_weights_are_restored(tmp_path):
    model, fresh = make_model(WHOLE_EFFICIENTNET, seed=3), make_model(WHOLE_EFFICIENTNET, seed=3)
    before = snapshot(model)
    with torch.no_grad():
        for name in ("visual_projection.weight", "logit_scale"):
            model.get_parameter(name).mul_(1.1)
    save_trained(model, before, tmp_path)
    load_trained(fresh, tmp_path)
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in model.state_dict().items())
    assert load_file(tmp_path / "trained.safetensors").keys() == {"visual_projection.weight", "logit_scale"}


def test_the_committed_weights_belong_to_the_layers_that_the_recipe_trains():
    recipe = recipe_from_args(PhotoTeacherRecipe, ["--config", str(TRAINED / "recipe.yaml")])
    first = 12 - recipe.text_layers
    trained = ("visual_projection.", "text_projection.", "logit_scale", "vision_model.timm_model.")
    trained += tuple(f"text_model.encoder.layer.{number}." for number in range(first, 12))
    weights = load_file(TRAINED / "trained.safetensors")
    assert all(name.startswith(trained) and value.dtype == torch.float16 for name, value in weights.items())
    assert weights["visual_projection.weight"].shape == (recipe.projection_dim, 1280)
    assert all(value.isfinite().all() for value in weights.values())


def test_trained_weights_of_another_model_are_refused(tmp_path):
    model = make_model(WHOLE_EFFICIENTNET)
    with pytest.raises(ValueError, match=r"trained\.safetensors: cannot be read.*train the teacher"):
        load_trained(model, tmp_path)
    save_file({"visual_projection.weight": torch.zeros(3)}, tmp_path / "trained.safetensors")
    with pytest.raises(ValueError, match=r"visual_projection\.weight has the shape \(3,\), the model expects"):
        load_trained(model, tmp_path)


def test_held_out_classes_are_not_drawn(recipe, feature_folder):
    _, _, data = make_parts(recipe, feature_folder)
    assert data.classes.held_out.sum() == 1
    for step in range(20):
        drawn = draw_step(data, recipe, 0, step)
        assert not data.classes.held_out[data.classes.labels[drawn.class_images]].any()
        owners = torch.searchsorted(data.captioned.starts, drawn.captions, right=True) - 1
        assert owners.tolist() == drawn.images.tolist()


def test_no_batch_has_more_tokens_than_allowed():
    lengths = [5, 3, 9, 4, 30, 2]
    found = list(batches_by_length(lengths, 20))
    assert sorted(index for batch in found for index in batch) == list(range(6))
    assert all(len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= 20 for batch in found)


@pytest.mark.parametrize(("field", "value"), [("text_layers", 0), ("dropout", 1.0), ("held_out_classes", -0.1)])
def test_values_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}: must be at least"):
        PhotoTeacherRecipe(output_dir="x", data=DataConfig(train="x"), validation="y", **{field: value})


@pytest.mark.parametrize(("field", "value"), [("resume", True), ("push_to_hub", True), ("ema_decay", 0.9)])
def test_unsupported_options_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}: is not supported"):
        PhotoTeacherRecipe(output_dir="x", data=DataConfig(train="x"), validation="y", **{field: value})


def test_the_committed_recipe_is_valid():
    argv = ["--config", str(RECIPE), "--data.train", "x", "--validation", "y"]
    recipe = recipe_from_args(PhotoTeacherRecipe, [*argv, "--class_images", "[a.parquet, b.parquet]"])
    assert recipe.class_images == ["a.parquet", "b.parquet"] and recipe.eval_every == 100


def test_the_command_reports_a_missing_package_in_one_line(monkeypatch, capsys, tmp_path):
    missing = PackagedFile("no-such-package==1.0", "weights.bin", "")
    monkeypatch.setattr("training.demo.photo_teacher.e5.WEIGHTS", missing)
    monkeypatch.setattr(
        "training.demo.photo_teacher.lite2.read_lite2", lambda: Lite2({}, torch.ones(1), torch.ones(1))
    )
    argv = ["--data.train", "x", "--validation", "y", "--output_dir", str(tmp_path)]
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 2
    assert capsys.readouterr().err.startswith("photo_teacher: no-such-package: the package is not installed")


def test_more_text_layers_than_the_tower_has_are_refused():
    with pytest.raises(ValueError, match="text_layers: is 3, but the text tower has only 2"):
        UpperEncoder(make_model(WHOLE_EFFICIENTNET), 3)

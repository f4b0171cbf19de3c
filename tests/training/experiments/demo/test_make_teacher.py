"""The command that makes the teacher of the demo."""

import torch
from safetensors.torch import load_file

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import VIT, make_model
from training.config import CONFIGS, AlignRecipe, parse_recipe
from training.experiments.demo import make_teacher


def test_the_teacher_is_built_once_trained_and_copied_in_half_precision(
    tmp_path, monkeypatch, processor
):
    folder, copy = tmp_path / "run", tmp_path / "mini"
    built = []

    def train(recipe: AlignRecipe):
        make_model(VIT).save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / "log.jsonl").write_text("{}")
        (folder / "untrained").mkdir(exist_ok=True)
        (folder / "untrained" / "config.json").touch()

    monkeypatch.setattr(make_teacher, "TEACHER_FOLDER", copy)
    monkeypatch.setattr(make_teacher, "build_untrained_teacher", built.append)
    monkeypatch.setattr(make_teacher.align, "run", train)
    recipe = str(CONFIGS / "demo_teacher.yaml")
    command = ["--config", recipe, "--output_dir", str(folder)]
    command += ["--student", str(folder / "untrained")]
    for _ in range(2):
        make_teacher.main(command)
    assert built == [folder / "untrained"]
    weights = load_file(copy / "model.safetensors")
    assert {each.dtype for each in weights.values()} == {torch.float16}
    assert (copy / "log.jsonl").read_text() == "{}" and not [*copy.glob("*.py")]
    saved = parse_recipe(AlignRecipe, ["--config", str(copy / "recipe.yaml")])
    assert saved.max_steps == parse_recipe(AlignRecipe, ["--config", recipe]).max_steps
    loaded = DCCLIPProcessor.from_pretrained(copy).tokenizer
    assert loaded("owl").input_ids == processor.tokenizer("owl").input_ids

"""Extensions from outside, as CONTRIBUTING.md prints them."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tests.tiny import MOBILENET, ROOT, XLM_ROBERTA
from tests.tiny_teachers import save_teacher
from tests.training.engine.runs import losses
from training import align, distill
from training.config import AlignRecipe, DistillRecipe, parse_recipe
from training.engine.script import with_extensions
from training.tasks.align import LOSSES
from training.tasks.distill import DISTILL_LOSSES
from training.teachers import FAMILIES

SHARED = {"teacher": "teacher", "batch_size": 8, "warmup_steps": 0, "log_every": 1, "max_steps": 1}
STUDENT = {"vision_config": MOBILENET, "text_config": XLM_ROBERTA, "max_text_length": 32}
RECIPES = {
    "DISTILL": SHARED | {"output_dir": "distilled", "student": STUDENT},
    "ALIGN": SHARED | {"output_dir": "aligned", "student": "distilled"},
}


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_the_example_runs_as_printed(tmp_path, corpus, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    # restored after the test
    monkeypatch.setattr("training.tasks.distill.DISTILL_LOSSES", list(DISTILL_LOSSES))
    monkeypatch.setattr("training.tasks.align.LOSSES", list(LOSSES))
    monkeypatch.setitem(FAMILIES, "my_clip", None)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("\\\n", "")
    code = re.findall(r"```python\n(# my_extension.py\n.*?)```", text, re.S)[0]
    Path("my_extension.py").write_text(code, encoding="utf-8")
    shutil.copy(corpus / "train.parquet", "pairs.parquet")
    for name, recipe in RECIPES.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    save_teacher("clip", Path("teacher"), tokenizer)
    file = Path("teacher/config.json")
    config = json.loads(file.read_text(encoding="utf-8")) | {"model_type": "my_clip"}
    config["text_config"]["eos_token_id"] = tokenizer.eos_token_id
    file.write_text(json.dumps(config), encoding="utf-8")
    for script in (distill, align):
        name = script.__name__.rpartition(".")[2]
        (command,) = re.findall(
            rf"^python training/{name}.py (--import my_extension .*)$", text, re.M
        )
        script.main(shlex.split(command))
    assert losses("distilled", "vision_distance")[0] > 0
    assert 0 < losses("aligned", "spread")[0] <= 1
    saved = yaml.safe_load(Path("aligned/recipe.yaml").read_text(encoding="utf-8"))
    assert saved["spread_weight"] == 0.1 and saved["data"]["train"] == "my_extension:load_pairs"


def test_a_module_that_fails_is_refused(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text("raise SystemExit", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"^import: 'my_module' cannot be imported .SystemExit"):
        with_extensions(AlignRecipe, ["my_module"])


def test_a_recipe_file_imports_nothing(tmp_path, refusal):
    (tmp_path / "recipe.yaml").write_text("import: my_module", encoding="utf-8")
    message = refusal(align.main, "--config", tmp_path / "recipe.yaml", "--output_dir", "x")
    assert message.startswith("align: import: ")


@pytest.mark.parametrize(("script", "recipe"), [(distill, DistillRecipe), (align, AlignRecipe)])
def test_without_options_the_demo_is_trained(script, recipe, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(sys, "argv", ["training/script.py"])
    monkeypatch.setattr(script, "run", trained.append)
    monkeypatch.setattr(align, "DEMO_STUDENT", ROOT)  # exists, so stage 1 does not come first
    script.main()
    name = script.__name__.rpartition(".")[2]
    config = ROOT / f"training/configs/demo_{name}.yaml"
    assert trained == [parse_recipe(recipe, ["--config", str(config)])]
    assert f"{name}: no options, so this trains the demo: --config " in capsys.readouterr().out

"""Extensions from outside, as CONTRIBUTING.md prints them."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.tiny import MOBILENET, ROOT, XLM_ROBERTA
from tests.tiny_teachers import save_teacher
from training import align, distill
from training.config import AlignRecipe
from training.engine.script import with_extensions
from training.tasks.distill import DISTILL_LOSSES
from training.tasks.loss_table import LOSSES
from training.teachers import FAMILIES

SHARED = {"teacher": "teacher", "batch_size": 8, "warmup_steps": 0, "log_every": 1, "max_steps": 1}
STUDENT = {"vision_config": MOBILENET, "text_config": XLM_ROBERTA, "max_text_length": 32}
RECIPES = {
    "DISTILL": SHARED | {"output_dir": "distilled", "student": STUDENT},
    "ALIGN": SHARED | {"output_dir": "aligned", "student": "distilled"},
}


@pytest.fixture(autouse=True)
def _tables(monkeypatch, tmp_path) -> Iterator[None]:
    """Run in an empty folder, and restore the tables and modules after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before, losses, families = (
        set(sys.modules),
        (list(DISTILL_LOSSES), list(LOSSES)),
        dict(FAMILIES),
    )
    yield
    DISTILL_LOSSES[:], LOSSES[:] = losses
    FAMILIES.clear()
    FAMILIES.update(families)
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_the_example_runs_as_printed(tmp_path, corpus, tokenizer):
    blocks = re.findall(
        r"```\w+\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S
    )
    code = next(block for block in blocks if block.startswith("# my_extension.py"))
    commands = next(block for block in blocks if "--import my_extension" in block).replace(
        "\\\n", ""
    )
    (tmp_path / "my_extension.py").write_text(code, encoding="utf-8")
    shutil.copy(corpus / "train.parquet", "pairs.parquet")
    for name, recipe in RECIPES.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    save_teacher("clip", Path("teacher"), tokenizer)
    config = json.loads(Path("teacher/config.json").read_text(encoding="utf-8"))
    config["text_config"]["eos_token_id"] = tokenizer.eos_token_id
    Path("teacher/config.json").write_text(
        json.dumps(config | {"model_type": "my_clip"}), encoding="utf-8"
    )
    for line, script in zip(commands.strip().splitlines(), (distill, align), strict=True):
        script.main(shlex.split(line)[2:])
    first, second = (
        json.loads(Path(folder, "log.jsonl").read_text(encoding="utf-8").splitlines()[1])
        for folder in ("distilled", "aligned")
    )
    assert first["vision_distance"] > 0 and 0 < second["spread"] <= 1
    saved = yaml.safe_load(Path("aligned/recipe.yaml").read_text(encoding="utf-8"))
    assert saved["spread_weight"] == 0.1 and saved["data"]["train"] == "my_extension:load_pairs"


def test_a_module_that_fails_is_refused(tmp_path):
    (tmp_path / "my_module.py").write_text("raise SystemExit", encoding="utf-8")
    sys.path.append(str(tmp_path))
    with pytest.raises(ValueError, match=r"^import: 'my_module' cannot be imported .SystemExit"):
        with_extensions(AlignRecipe, ["my_module"])


def test_a_recipe_file_imports_nothing(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump(RECIPES["ALIGN"] | {"import": "my_module"}), encoding="utf-8"
    )
    with pytest.raises(SystemExit):
        align.main(["--config", "recipe.yaml", "--data.train", "x.parquet"])
    assert capsys.readouterr().err.startswith("align: import: ")

"""The README keeps its word: its Python runs, its table is the committed one, its commands stand first."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.corpus.emoji import _render, read_concepts
from training.demo import report
from training.demo.__main__ import EXAMPLE
from training.demo.make_teacher import TEACHER_FOLDER
from training.hub.cards.tables import export_table
from training.studies.ablations import arms
from training.utils.results import Results

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


@pytest.fixture(scope="module")
def python_output(tmp_path_factory) -> list[str]:
    """Run all Python blocks where the demo would have left its folder; its teacher stands in for the student."""
    home = tmp_path_factory.mktemp("readme")
    model = home / "runs" / "demo" / "model"
    DCCLIPModel.from_pretrained(TEACHER_FOLDER).float().save_pretrained(model)
    DCCLIPProcessor.from_pretrained(TEACHER_FOLDER).save_pretrained(model)
    fox = next(concept for concept in read_concepts() if concept.en == EXAMPLE)
    (model / "example.png").write_bytes(_render(fox.drawings["twemoji"], 96))
    script = home / "readme.py"
    script.write_text("\n".join(blocks("python")), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, str(script)], cwd=home, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_python_blocks_print_what_their_comments_say(python_output):
    promised = [
        line.removeprefix("# ") for block in blocks("python") for line in block.splitlines() if line.startswith("# ")
    ]
    assert promised
    assert python_output == promised


def test_first_two_bash_blocks_install_and_run():
    demo, tests = blocks("bash")
    assert "pip install" in demo and "python -m training.demo" in demo
    assert "pip install" in tests and "pytest" in tests


def test_table_is_that_of_the_committed_results():
    tables = re.findall(r"<!-- results: (\S+) -->\n```\n(.*?)\n```", README, re.S)
    assert tables
    for folder, table in tables:
        assert table == report.summary(Results.read(ROOT / folder / "results.json"))


def test_cross_model_table_is_that_of_the_committed_results():
    ((path, table),) = re.findall(r"<!-- cross-model: (\S+) -->\n```\n(.*?)\n```", README, re.S)
    assert table == report.cross_model(Results.read(ROOT / path))


def test_tables_of_arms_are_those_of_the_committed_results():
    found = re.findall(r"<!-- arms: (\S+) -->\n(.*?)\n<!-- end of results -->", README, re.S)
    assert found
    for path, table in found:
        assert table == arms.table(Results.read(ROOT / path))


def test_export_table_is_that_of_the_committed_results():
    ((path, table),) = re.findall(r"<!-- export: (\S+) -->\n(.*?)\n<!-- end of results -->", README, re.S)
    results = Results.read(ROOT / path)
    assert table == export_table(results)
    for row in Results.read(ROOT / "model_cards/results/demo/results.json").rows:
        if row.stage == "aligned" and row.metric == "top1":  # it is the demo's student that was exported
            assert results.mean(model="PyTorch", set=row.set, language=row.language, metric="top1") == row.value

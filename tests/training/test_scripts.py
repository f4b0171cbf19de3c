"""Command lines as users type them: real processes, a tiny real corpus, a tiny teacher."""

import sys

import pytest
import torch
import yaml
from transformers import AutoModel, AutoProcessor

from tests.tiny import ROOT, VIT, XLM_ROBERTA
from training import align, distill
from training.engine import script as engine_script

pytestmark = pytest.mark.slow

CLUSTER = ROOT / "training" / "engine" / "distributed" / "ddp_cpu.yaml"


def test_two_processes_of_the_launcher_write_a_model_that_loads(
    corpus, teacher_folder, run_python, inputs, tmp_path
):
    recipe = {
        "output_dir": str(tmp_path / "distilled"),
        "teacher": str(teacher_folder),
        "teacher_cache": str(tmp_path / "cache"),
        "student": {"vision_config": VIT, "text_config": XLM_ROBERTA, "max_text_length": 32},
        "data": {"train": str(corpus / "train.parquet")},
        "batch_size": 8,
        "save_every": 2,
    }
    (tmp_path / "distill.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    arguments = [
        "--config",
        str(tmp_path / "distill.yaml"),
        "--max_steps",
        "3",
        "--teacher_views",
        "1",
    ]
    run_python(
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(CLUSTER),
        "training/distill.py",
        *arguments,
    )
    model = AutoModel.from_pretrained(tmp_path / "distilled").eval()
    with torch.no_grad():
        assert model(**inputs).logits_per_image.isfinite().all()
    assert AutoProcessor.from_pretrained(tmp_path / "distilled")(text="青蛙")["input_ids"]


@pytest.mark.parametrize("has_student", [False, True])
def test_stage_2_of_the_demo_trains_its_student_first_if_there_is_none(
    monkeypatch, tmp_path, capsys, has_student
):
    ran = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit):
        align.main([])
    assert "the demo runs in the checkout alone" in capsys.readouterr().err
    monkeypatch.setattr(engine_script, "REPO_ROOT", tmp_path)
    for stage in (distill, align):
        monkeypatch.setattr(stage, "run", lambda recipe, name=stage.__name__: ran.append(name))
    if has_student:
        (tmp_path / "runs/demo/distilled").mkdir(parents=True)
        (tmp_path / "runs/demo/distilled/config.json").touch()
    align.main([])
    stages = ["training.distill", "training.align"]
    assert ran == (stages[1:] if has_student else stages)
    assert ("stage 1 of the demo comes first" in capsys.readouterr().out) is not has_student


@pytest.mark.parametrize("script", ["distill", "align"])
def test_help_is_complete_and_needs_no_torch(run_python, script):
    code = f"import runpy, sys; sys.argv = ['{script}.py', '--help']; sys.modules['torch'] = None\n"
    output = run_python(
        "-c", f"{code}runpy.run_path('training/{script}.py', run_name='__main__')"
    ).stdout
    assert "Number of optimizer steps of the whole run." in output and "--data.train" in output
    assert f"python training/{script}.py --config" in output

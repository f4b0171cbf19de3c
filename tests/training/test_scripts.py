"""Command lines as users type them: real processes, a tiny real corpus, a tiny teacher."""

from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModel, AutoProcessor

from tests.tiny import ROOT, VIT, XLM_ROBERTA
from training import align, distill

pytestmark = pytest.mark.slow

SCRIPTS = {"distill": distill, "align": align}
CLUSTER = ROOT / "training" / "engine" / "distributed" / "ddp_cpu.yaml"


@pytest.fixture(scope="module")
def recipes(tmp_path_factory, corpus, teacher_folder) -> dict[str, str]:
    """Recipe files of both stages."""
    folder = tmp_path_factory.mktemp("recipes")
    shared = {
        "teacher": str(teacher_folder),
        "data": {"train": str(corpus / "train.parquet")},
        "batch_size": 8,
        "warmup_steps": 1,
        "log_every": 1,
        "max_steps": 50,
    }
    student = {"vision_config": VIT, "text_config": XLM_ROBERTA, "max_text_length": 32}
    contents = {
        "distill": shared | {"output_dir": str(folder / "distilled"), "student": student},
        "align": shared | {"output_dir": str(folder / "aligned"), "student": str(folder / "distilled")},
    }
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return {name: str(folder / f"{name}.yaml") for name in contents}


def test_two_processes_of_the_launcher_write_a_model_that_loads(recipes, run_python, inputs):
    folder = Path(recipes["distill"]).parent
    arguments = ["--config", recipes["distill"], "--max_steps", "3", "--save_every", "2"]
    cache = ["--teacher_cache", str(folder / "cache"), "--teacher_views", "1"]
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(CLUSTER)]
    run_python(*launch, "training/distill.py", *arguments, *cache)
    model = AutoModel.from_pretrained(folder / "distilled").eval()
    with torch.no_grad():
        assert model(**inputs).logits_per_image.isfinite().all()
    assert AutoProcessor.from_pretrained(folder / "distilled")(text="青蛙")["input_ids"]


@pytest.mark.parametrize("script", ["distill", "align"])
def test_help_is_complete_and_needs_no_torch(run_python, script):
    code = f"import runpy, sys; sys.argv = ['{script}.py', '--help']; sys.modules['torch'] = None\n"
    output = run_python("-c", f"{code}runpy.run_path('training/{script}.py', run_name='__main__')").stdout
    assert "Number of optimizer steps of the whole run." in output and "--data.train" in output
    assert f"python training/{script}.py --config" in output


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("distill", ["--learnign_rate", "1"], "distill: unrecognized arguments: --learnign_rate 1. See --help"),
        ("distill", ["--max_steps", "0"], "distill: max_steps: must be at least 1, got 0."),
        ("distill", ["--teacher", "runs/nowhere"], "distill: teacher: "),
        ("distill", ["--data.train", "nowhere.parquet"], "distill: data: "),
        ("align", ["--student", "runs/nowhere"], "align: student: "),
    ],
)
def test_user_errors_are_one_line(recipes, capsys, tmp_path, script, arguments, message):
    arguments = ["--config", recipes[script], "--output_dir", str(tmp_path / "x"), *arguments]
    with pytest.raises(SystemExit) as exit_info:
        SCRIPTS[script].main(arguments)
    errors = capsys.readouterr().err
    assert exit_info.value.code == 2 and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith(message)
    assert not (tmp_path / "x").exists()

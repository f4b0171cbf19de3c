"""The `dcclip` command: installed, inside a model folder, and without its packages."""

import json

import pytest

from modeling_dcclip import command
from modeling_dcclip.runtime_dcclip import Runtime

pytestmark = pytest.mark.slow

LABELS = ["red apple", "green frog", "红苹果", "青蛙"]
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in set(sys.argv[1].split(",")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from modeling_dcclip.command import main
main(sys.argv[2:])
"""
HEAVY = "torch,torchvision,transformers,timm,huggingface_hub"


@pytest.fixture(scope="module")
def image(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("command") / "image.png"
    images[0].save(path)
    return path


@pytest.fixture(scope="module")
def expected(exported, image) -> list[tuple[str, float]]:
    return Runtime(exported).zero_shot(image, LABELS)


def error_of(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        command.main(list(arguments))
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_label_prints_scores_without_torch(run_python, exported, image, expected):
    arguments = ["label", str(image), *LABELS, "--model", str(exported)]
    run = run_python("-c", BLOCK, HEAVY, *arguments, PYTHONIOENCODING="utf-8")
    assert run.stdout.splitlines() == [f"{score:.3f}  {label}" for label, score in expected]


def test_label_prints_json(capsys, exported, image, expected):
    command.main(["label", str(image), *LABELS, "--model", str(exported), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [entry["label"] for entry in found] == [label for label, _ in expected]
    assert [entry["score"] for entry in found] == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize("arguments", [["--help"], ["label", "--help"]])
def test_help_is_fast_and_needs_no_packages(run_python, arguments):
    blocked = f"{HEAVY},numpy,onnxruntime,tokenizers,PIL"
    # processor time, start of the interpreter included, because other processes slow the wall time
    measure = "import atexit, sys, time\natexit.register(lambda: print(time.process_time(), file=sys.stderr))"
    run = run_python("-c", measure + BLOCK, blocked, *arguments)
    assert "usage: dcclip" in run.stdout
    assert float(run.stderr) < 0.5


@pytest.mark.parametrize(("module", "package"), command.RUNTIME_PACKAGES.items())
def test_a_missing_package_is_named_with_the_command_that_installs_it(run_python, module, package):
    run = run_python("-c", BLOCK, module, "status", check=False)
    assert run.returncode == 2
    assert run.stderr == (
        f"dcclip: {package} is not installed. Run: pip install numpy onnxruntime pillow tokenizers tqdm\n"
    )


def test_user_errors_are_one_line(capsys, exported, image, tmp_path):
    model = ["--model", str(exported)]
    assert error_of(capsys, "label", "none.png", "fox", *model).startswith(
        "dcclip: image: there is no file 'none.png'"
    )
    assert "dcclip: model: " in error_of(capsys, "label", str(image), "fox", "--model", str(tmp_path))
    assert "dcclip: template: " in error_of(capsys, "label", str(image), "fox", *model, "--template", "a photo")
    assert "dcclip: label: one is empty" in error_of(capsys, "label", str(image), "fox", " ", *model)
    assert "dcclip: label: 'fox' is given twice" in error_of(capsys, "label", str(image), "fox", "cat", "fox ", *model)
    assert "dcclip: texts: " in error_of(capsys, "label", str(image), "红苹果" * 30, *model)
    (tmp_path / "broken.png").write_bytes(b"not an image")
    message = error_of(capsys, "label", str(tmp_path / "broken.png"), "fox", *model)
    assert f"{tmp_path}/broken.png' does not decode" in message and message.count("\n") == 1
    assert "cannot identify image file)" in message


def test_labels_that_are_not_in_the_vocabulary_get_a_note(capsys, exported, image, monkeypatch):
    monkeypatch.setattr(Runtime, "unknown_parts", lambda runtime, text: [*text] if text == "獭" else [])
    command.main(["label", str(image), "獭", "fox", "--model", str(exported)])
    assert capsys.readouterr().err == "dcclip: note: '獭' contains 獭, which is not in the model's vocabulary\n"


def test_a_single_label_gets_a_note(capsys, exported, image):
    command.main(["label", str(image), "猫，狗", "--model", str(exported)])
    printed = capsys.readouterr()
    assert printed.out == "1.000  猫，狗\n" and "a single label always has the score 1" in printed.err


def test_several_images_are_no_labels(capsys, exported, image):
    message = error_of(capsys, "label", str(image), str(image), "fox", "--model", str(exported))
    assert f"label: expects one image, but '{image}' is also an image" in message


@pytest.mark.parametrize("arguments", [["index", ""], ["index", "--forget", ""], ["label", "", "fox"]])
def test_an_empty_name_is_not_the_current_folder(capsys, arguments):
    assert error_of(capsys, *arguments).endswith(": the name is empty\n")


def test_usage_errors_name_the_option(capsys):
    assert "--no_such_option" in error_of(capsys, "label", "image.png", "fox", "--no_such_option")
    assert "COMMAND" in error_of(capsys)

"""The `dcclip` command: installed, inside a model folder, and without its packages."""

import json
from functools import partial

import pytest

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search import command, commands

LABELS = ["red", "green", "红", "white"]
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in set(sys.argv[1].split(",")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from modeling_dcclip.search.command import main
main(sys.argv[2:])
"""


@pytest.fixture
def image(paint, tmp_path):
    return paint(tmp_path / "image.png", "red")


@pytest.fixture
def label(run, monkeypatch, color_model, image):
    """Function that runs `dcclip label` on an image."""
    monkeypatch.setenv("DCCLIP_MODEL", str(color_model))
    return partial(run, "label")


@pytest.fixture
def scores(color_model, image):
    return Runtime(color_model).zero_shot(image, LABELS, "a {} photo")


def test_label_prints_scores(label, image, scores):
    found = label(image, *LABELS, "--template", "a {} photo")
    assert found.splitlines() == [f"{score:.3f}  {name}" for name, score in scores]


def test_label_prints_json(label, image, scores):
    found = json.loads(label(image, *LABELS, "--template", "a {} photo", "--json"))
    assert [each["label"] for each in found] == [name for name, _ in scores]


def test_help_needs_no_packages(run_python):
    run = run_python(
        "-c", BLOCK, "torch,numpy,onnxruntime,tokenizers,PIL,starlette,uvicorn", "label", "--help"
    )
    assert "usage: dcclip" in run.stdout


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    def fail(options):
        raise ModuleNotFoundError("No module named 'PIL.Image'", name="PIL.Image")

    monkeypatch.setitem(commands.RUN, "label", fail)
    with pytest.raises(SystemExit):
        command.main(["label", "a.png", "fox"])
    error = capsys.readouterr().err
    assert "PIL.Image is not installed; it comes with the extra `search`" in error


def test_user_errors_are_one_line(label, image, tmp_path):
    for cause, arguments in (
        ("image: ", ["none.png", "fox"]),
        ("folder: ", [image, "fox", "--model", tmp_path]),
        ("template: ", [image, "fox", "--template", "a photo"]),
        ("texts: ", [image, "红" * 30]),
    ):
        assert label(*arguments).startswith(f"dcclip: {cause}")


def test_labels_that_are_not_in_the_vocabulary_get_a_note(color_model, image, capsys):
    command.main(["label", str(image), "獭", "red", "--model", str(color_model)])
    assert "not in the model's vocabulary: 獭" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["index", ""], "the name is empty"),  # such as of a variable that is not set
        (["search", "beach", "-people"], 'To leave something out, write "beach -people" in quotes'),
        (["Fotos"], "'Fotos' is neither a folder nor a command (index, search, "),
        (["F" * 300], "is neither a folder nor a command"),  # longer than a name can be
        (["index", "a", "--exclu", "b"], "unrecognized arguments: --exclu"),  # not abbreviated
        (["--"], "the following arguments are required: COMMAND"),
    ],
)
def test_usage_errors_name_the_option(capsys, arguments, named):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert named in capsys.readouterr().err


def test_without_arguments_the_help_is_printed(capsys):
    with pytest.raises(SystemExit):
        command.main([])
    help_text = capsys.readouterr().out
    assert "--version" in help_text
    assert "None" not in help_text
    summary, _, examples = command.__doc__.partition("\n\n")
    assert f"\n\n{summary}\n\n" in help_text and help_text.endswith(examples)

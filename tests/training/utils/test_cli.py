import errno
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch

from training.utils.cli import (
    DEBUG_VARIABLE,
    command_of,
    parse_options,
    print_ending,
    user_errors,
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """Options of a part.

    Args:
        size: Edge of images.
        names: Names of columns.
    """

    size: int = 8
    names: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a command.

    Args:
        folder: Folder of the model.
        data: Data sources, 100 % of them.
        seeds: Seeds of the runs.
        formats: Number formats to write.
        layout: Folder layout.
        columns: Column of each language.
        dry_run: Print the plan and stop.
        trust_remote_code: Run code of the model.
        part: Options of a part, or a file of them.
    """

    folder: str
    data: list[str]
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    formats: list[Literal["fp32", "int8"]] | None = None
    layout: Literal["onnx", "pte"] = "onnx"
    columns: dict[str, str] | None = None
    dry_run: bool = False
    trust_remote_code: bool = False
    part: Section = field(default_factory=Section)


def parse(*argv: str) -> Options:
    return parse_options(
        Options,
        list(argv),
        prog="python training/try.py",
        description="Try the parser.\n\n    python training/try.py FOLDER --data A\n    --data B",
        positional=("folder",),
    )


def test_lists_take_several_values_or_several_flags():
    options = parse(
        "model", "--data", "1", "no", "--data", "c", "--seeds", "7", "--formats", "int8"
    )
    assert options.data == ["1", "no", "c"]  # strings, although YAML reads other values
    assert options.seeds == [7] and options.formats == ["int8"]


def test_the_command_line_overrides_the_file_in_any_order(tmp_path):
    model, *config = write(tmp_path, "data: [x, y]\nseeds: [5]\n")
    for arguments in ([model, *config, "--seeds", "6"], ["--seeds", "6", *config, model]):
        options = parse(*arguments)
        assert options.data == ["x", "y"] and options.seeds == [6]


def write(folder: Path, content: str | bytes) -> list[str]:
    path = folder / "options.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return ["model", "--config", str(path)]


def test_a_section_is_given_by_fields_or_as_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "part.yaml").write_text("names: {en: a, zh: b}\n")
    write(tmp_path, "data: [x]\npart: {size: 5, names: {zh: d}}\n")
    given = ["model", "--config", "options.yaml"]
    assert parse(*given).part == Section(size=5, names={"zh": "d"})
    assert parse(*given, "--part.size", "7").part == Section(size=7, names={"zh": "d"})
    found = parse(*given, "--part.names.en", "c").part
    assert found == Section(size=5, names={"en": "c", "zh": "d"})
    # a file replaces the whole section, and a field comes after it
    found = parse(*given, "--part.names.en", "c", "--part", "part.yaml").part
    assert found == Section(size=8, names={"en": "c", "zh": "b"})


def test_the_main_process_prints_what_was_written(capsys, monkeypatch):
    for rank, printed in {"0": "\n  a.json: results\n", "1": ""}.items():
        monkeypatch.setenv("RANK", rank)
        print_ending({"a.json": "results"})
        assert capsys.readouterr().out == printed


def test_bars_of_libraries_are_hidden_and_those_of_downloads_stay_as_they_are(run_python):
    code = """
import datasets, huggingface_hub.utils as hub, transformers
from training.utils.cli import hide_library_bars
for change in (hub.enable_progress_bars, hub.disable_progress_bars):
    change()
    hide_library_bars()
    print(datasets.are_progress_bars_disabled(), hub.are_progress_bars_disabled())
    print(transformers.utils.logging.is_progress_bar_enabled())
"""
    found = run_python("-c", code).stdout.split()
    assert found == ["True", "False", "False", "True", "True", "False"]


def error_of(capsys, *argv: str) -> str:
    """The only line of an error, with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        parse(*argv)
    line = capsys.readouterr().err
    assert stop.value.code == 2
    assert line.count("\n") == 1
    return line


def test_a_file_cannot_trust_code(tmp_path, capsys):
    error = error_of(capsys, *write(tmp_path, "trust_remote_code: true"))
    assert error.startswith("try: trust_remote_code: a file of options cannot set this. Add --t")


@pytest.mark.parametrize("source", ["some.module:make", "a=module:make:en"])
def test_a_function_that_a_file_names_is_refused(tmp_path, capsys, source):
    error = error_of(capsys, *write(tmp_path, f"data: ['{source}']"))
    assert error.startswith(f"try: data: {source!r} names a function")
    assert parse("model", "--data", source).data == [source]


def test_every_option_has_help_and_examples_keep_their_lines(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "Data sources, 100 % of them. Required." in text
    assert "Seeds of the runs. Default: [0, 1]." in text
    assert "python training/try.py FOLDER --data A\n    --data B" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "a"], "the following arguments are required: folder. See --help"),
        (["model"], "data: Field required."),
        (["model", "--data", "a", "--layout", "zip"], "layout: Input should be 'onnx' or 'pte'"),
        (["model", "--data", "a", "--seeds", "x"], "seeds.0: Input should be a valid integer"),
        (["model", "--dat", "a"], "unrecognized arguments: --dat"),
        (["model", "--data", "a", "--config", "no.yaml"], "config: no.yaml cannot be used"),
    ],
)
def test_usage_errors_exit_with_one_message_and_code_2(argv, message, capsys):
    assert error_of(capsys, *argv).startswith(f"try: {message}")


def test_a_missing_package_names_its_extra(capsys):
    with pytest.raises(SystemExit) as stop, user_errors("export", extra="edge"):
        import a_package_that_nobody_has  # noqa: F401
    assert stop.value.code == 2
    message = 'export: a_package_that_nobody_has is not installed. Run: pip install -e ".[edge]"'
    assert capsys.readouterr().err.strip() == message


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("data: two\nlines."), 2, "data: two lines."),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            2,
            "[Errno 13] Permission denied: '/x'",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "[Errno 28] No space left on device"),
        (OSError("output_dir: cannot save."), 1, "output_dir: cannot save."),
        (FloatingPointError("step 3: not finite."), 1, "step 3: not finite."),
        (
            RuntimeError(
                "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"
            ),
            1,
            "another process of this run has ended or does not answer; its own message says why.",
        ),
        (
            KeyboardInterrupt(),
            130,
            "interrupted. Complete files are kept. Run the same command again.",
        ),
        (KeyboardInterrupt("Add --resume."), 130, "interrupted. Add --resume."),
    ],
)
def test_expected_errors_are_one_line_with_their_exit_code(error, code, line, capsys):
    with pytest.raises(SystemExit) as stop, user_errors("eval"):
        raise error
    assert stop.value.code == code and capsys.readouterr().err.strip() == f"eval: {line}"


def test_an_unexpected_error_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="mat1"), user_errors("align"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


class _Failing(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ValueError("data: row 0 is damaged.")


def test_an_error_of_a_decoding_process_comes_without_its_traceback(capsys):
    with pytest.raises(SystemExit), user_errors("align"):
        next(iter(torch.utils.data.DataLoader(_Failing(), num_workers=1)))
    assert capsys.readouterr().err == "align: data: row 0 is damaged.\n"


def test_debug_shows_the_traceback_first(monkeypatch, capsys):
    monkeypatch.setenv(DEBUG_VARIABLE, "")  # restored after the test
    parse("folder", "--data", "x", "--debug")
    with pytest.raises(SystemExit), user_errors("eval"):
        raise ValueError("data: none.")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and lines[-1] == "eval: data: none."


def test_command_contains_options_that_differ_from_their_defaults():
    options = Options(
        folder="a b", data=["x", "y"], seeds=[0, 1], columns={"en": "c d"}, dry_run=True
    )
    expected = "it --folder 'a b' --data x y --columns.en 'c d' --dry_run"
    assert command_of("it", options) == expected
    assert parse(options.folder, *shlex.split(expected)[3:]) == options

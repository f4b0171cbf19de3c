"""The `dcclip` command: zero-shot labels for an image, in Chinese and English, without PyTorch.

    dcclip label image.png fox dog cat --model runs/demo/edge
    dcclip label image.png 狐狸 狗 猫 --template "一张{}的图片" --json

It also runs inside an exported model folder where nothing but the runtime's packages is installed:

    python command.py label image.png 狐狸 狗 猫
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runtime_dcclip import Runtime

PROGRAM = "dcclip"
# packages of the extra `runtime`, by the name that an import error gives
RUNTIME_PACKAGES = {"numpy": "numpy", "onnxruntime": "onnxruntime", "PIL": "pillow", "tokenizers": "tokenizers"}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser. A subcommand is a parser with a `run` default: a function of the options."""
    summary, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=summary,
        epilog=examples,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    label = _add_command(commands, "label", run_label, "Rank labels for an image.")
    label.add_argument("image", metavar="IMAGE", type=Path, help="Image file.")
    label.add_argument("labels", metavar="LABEL", nargs="+", help="Candidate labels in Chinese or English.")
    label.add_argument(
        "--template", default="{}", help="Text around each label, with {} for the label. Default: the label alone."
    )
    label.add_argument("--json", action="store_true", help="Print a JSON list of labels and scores.")
    return parser


def _add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], summary: str
) -> argparse.ArgumentParser:
    """Add a subcommand with the options that all subcommands share."""
    command = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    command.add_argument(
        "--model",
        metavar="FOLDER",
        type=Path,
        default=default_model(),
        help="Folder of an exported model, with onnx/. Default: the variable DCCLIP_MODEL, else the folder of this "
        "file if it is a model folder, else the current folder.",
    )
    command.set_defaults(run=run)
    return command


def default_model() -> Path:
    """Return the model folder to use if none is given."""
    if name := os.environ.get("DCCLIP_MODEL"):
        return Path(name)
    here = Path(__file__).parent
    return here if (here / "config.json").is_file() else Path()


def open_runtime(folder: Path) -> "Runtime":
    """Open an exported model.

    Raises:
        ValueError: The folder is not a model folder.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"model: {str(folder)!r} has no config.json. Pass an exported model: --model FOLDER.")
    # imported here, because --help must work, and fast, without the packages of the runtime
    if __package__:
        from .runtime_dcclip import Runtime
    else:
        from runtime_dcclip import Runtime  # type: ignore[no-redef]  # run as a script in a model folder
    return Runtime(folder)


def run_label(options: argparse.Namespace) -> None:
    """Print the labels with their scores, highest first."""
    if not options.image.is_file():
        raise ValueError(f"image: there is no file {str(options.image)!r}. Name an image file.")
    scores = open_runtime(options.model).zero_shot(options.image, options.labels, options.template)
    if options.json:
        print(json.dumps([{"label": label, "score": round(score, 6)} for label, score in scores], ensure_ascii=False))
    else:
        print("\n".join(f"{score:.3f}  {label}" for label, score in scores))


def main(argv: list[str] | None = None) -> None:
    """Parse and run; exit with code 2 and one line on stderr after a user error.

    Args:
        argv: Command-line arguments; None takes those of the process.
    """
    options = build_parser().parse_args(argv)
    try:
        options.run(options)
    except ModuleNotFoundError as error:
        package = RUNTIME_PACKAGES.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        _exit(f'{package} is not installed. Run: pip install "dcclip[runtime]"')
    except (ValueError, OSError) as error:
        _exit(str(error))


def _exit(message: str) -> None:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()

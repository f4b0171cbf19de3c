"""Export a finished model to ONNX, ExecuTorch or another tool. Every file must pass a check in both languages.

python training/export.py runs/demo/model --output_dir runs/demo/edge
python training/export.py runs/demo/model --output_dir runs/demo/edge --format executorch
python training/export.py runs/demo/model --output_dir runs/demo/edge --format open_clip
python training/export.py FOLDER --output_dir DIR --data TEST.parquet --class_names NAMES.json
"""

import sys

from training.edge.formats import FORMATS, ExportOptions
from training.utils.cli import hide_library_bars, parse_options, print_ending, user_errors
from training.utils.process import keep_freed_memory


def main(argv: list[str] | None = None):
    """Parse the options, export, and print a line for each file."""
    options = parse_options(
        ExportOptions,
        argv,
        prog="python training/export.py",
        description=__doc__,
        positional=("folder",),
    )
    keep_freed_memory()  # for the accuracy checks
    with user_errors(
        "export", extra=FORMATS[options.format].extra if options.format in FORMATS else "edge"
    ):
        # after parsing, so that --help answers without PyTorch and without the extra
        from training.edge.export import UNCHECKED, export

        hide_library_bars()
        verdicts = export(options)
    print("\n".join(verdict.line() for verdict in verdicts))
    if not all(verdict.checked for verdict in verdicts):
        print(f"\n{UNCHECKED}")
    kept = {verdict.tower for verdict in verdicts if verdict.kept}
    refused = {verdict.tower for verdict in verdicts} - kept
    print_ending(
        {
            options.output_dir: "Hub folder with the exported files and the verdict on each in results.json"
        }
    )
    if refused:
        print(f"export: no variant of {', '.join(sorted(refused))} passed.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

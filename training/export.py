"""Export a trained model for devices: ONNX or ExecuTorch, in several number formats, each behind a bilingual gate.

python training/export.py runs/demo/model --output_dir runs/demo/edge
python training/export.py runs/demo/model --output_dir runs/demo/edge --format executorch
python training/export.py FOLDER --output_dir D --data TEST.parquet --class_names NAMES.json
"""

import sys

from jsonargparse import ArgumentError, ArgumentParser

try:
    from training.edge.export import ExportOptions, export
except ModuleNotFoundError as error:
    if error.name not in ("onnx", "onnxruntime"):
        raise
    sys.exit(f'export: {error.name} is not installed. Install what exports need: pip install -e ".[edge]"')


def main(argv: list[str] | None = None):
    """Parse, export, say what was written and what was not."""
    parser = ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False, exit_on_error=False)
    parser.add_class_arguments(ExportOptions, skip={"folder", "variants"})
    parser.add_argument("folder", type=str, help="of a trained model")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=["fp32", "fp16", "int8", "q4"],
        help="number formats; ExecuTorch has fp32 and int8 (default: all of the format but q4)",
    )
    try:
        options = ExportOptions(**vars(parser.parse_args(argv)))
        verdicts = export(options)
    except (ArgumentError, ValueError) as error:
        parser.exit(2, f"export: {error}\n")
    print("\n".join(verdict.line() for verdict in verdicts))
    print(f"\n{options.output_dir}")
    lacking = {verdict.tower for verdict in verdicts} - {verdict.tower for verdict in verdicts if verdict.kept}
    if lacking:
        print(f"export: no variant of {', '.join(sorted(lacking))} passed.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

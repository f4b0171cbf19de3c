"""Run one of the studies, or render the tables of the READMEs.

Examples:
  python -m training.experiments.studies --help
  python -m training.experiments.studies budget --models tiny base --output_dir runs/budget
  python -m training.experiments.studies tables
"""

import sys
from importlib import import_module

from training.utils.cli import (
    USER_ERROR,
    exit_with_error,
    hide_library_bars,
    parse_options,
    user_errors,
)

PROGRAM = "python -m training.experiments.studies"
STUDIES = {
    "claims": "The paper's claims: both stages are needed, and feature maps teach more than embeddings and logits.",
    "budget": "Size and latency of our models and of AltCLIP.",
    "tables": "Render the tables of the READMEs from committed results.",
}


def main(argv: list[str] | None = None):
    """Import a study by name, parse its options, and run it."""
    arguments = sys.argv[1:] if argv is None else argv
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(f"usage: {PROGRAM} STUDY [options]\n")
        print("\n".join(f"  {each:12}{summary}" for each, summary in STUDIES.items()))
        return
    if name not in STUDIES:
        exit_with_error(
            "studies", f"there is no study {name!r}. Name one of {', '.join(STUDIES)}.", USER_ERROR
        )
    with user_errors(name, extra="studies"):
        study = import_module(f"training.experiments.studies.{name}")
        options = parse_options(
            study.Options, arguments[1:], prog=f"{PROGRAM} {name}", description=study.__doc__ or ""
        )
        hide_library_bars()
        study.run(options)


if __name__ == "__main__":
    main()

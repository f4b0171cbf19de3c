"""Size and speed of every student size and of its rivals, on this CPU, without any weights.

python -m training.students                              a table
python -m training.students --json                       one line of JSON a model
python -m training.students --only tiny small --no_timing
"""

import json
import sys
from dataclasses import asdict

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from training.students.report import MODELS, header, measure, row


def main(argv: list[str] | None = None):
    """Parse, measure one model after another, print."""
    parser = ArgumentParser(
        prog="python -m training.students",
        description="Size and speed of every student size and of its rivals, with random weights.",
        allow_abbrev=False,
    )
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS), help="some of the models")
    parser.add_argument("--json", action="store_true", help="one line of JSON a model")
    parser.add_argument("--no_timing", action="store_true", help="count parameters only: instant, nothing allocated")
    parser.add_argument("--threads", type=PositiveInt, default=2, help="CPU threads of the timing")
    options = parser.parse_args(argv)
    if not options.json:
        print(header())
    for name in options.only:
        print(f"measuring {name} ...", file=sys.stderr)
        budget = measure(name, options.threads, timing=not options.no_timing)
        print(json.dumps(asdict(budget)) if options.json else row(budget), flush=True)


if __name__ == "__main__":
    main()

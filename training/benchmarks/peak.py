"""How much memory a run of stage 2 takes, in a process of its own: `python -m training.benchmarks.peak RECIPE`.

Its last line is the bytes of the process with the model loaded, and at most.
"""

import json
import sys
from typing import Any

from training import align, loop
from training.config import AlignRecipe, parse_recipe
from training.timing import peak_bytes, resident_bytes


def main(argv: list[str]):
    """Run the recipe and print."""
    loaded: list[int] = []

    def train(*arguments: Any, **keywords: Any) -> loop.TrainingResult:
        loaded.append(resident_bytes())
        return loop.train(*arguments, **keywords)

    align.train = train
    align.run(parse_recipe(AlignRecipe, ["--config", argv[0]]))
    print(json.dumps([loaded[0], peak_bytes()]))


if __name__ == "__main__":
    main(sys.argv[1:])

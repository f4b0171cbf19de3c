"""Measure one model behind one backend, and print the values as JSON.

`run.py` starts it in a process of its own, with the fields of `Probe` as JSON:

    python -m training.studies.budget.probe '{"name": ..., "backend": ..., ...}'
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from training.studies.budget.backends import open_towers
from training.studies.budget.inputs import Inputs
from training.utils.process import WARM_UP, peak_bytes

MIN_CALLS = 3


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The measurement of one process.

    Args:
        name: Name of the model.
        backend: One of `options.BACKENDS`.
        folder: Folder that `prepare` wrote.
        weights: Folder of the weights.
        threads: Number of CPU threads.
        batch_sizes: Images or texts per call, ascending.
        repeats: Calls of each kind.
        seconds: Time limit for one kind of call; at least three calls are made.
        began: Value of `time.monotonic()` when the process was started.
    """

    name: str
    backend: str
    folder: str
    weights: str
    threads: int
    batch_sizes: list[int]
    repeats: int
    seconds: float
    began: float

    def run(self) -> list[dict]:
        """Measure cold start, then time each batch size. Peak memory is read before the next larger batch size.

        Returns:
            Dicts with `metric`, `value` and, where they apply, `batch_size` and `language`.
        """
        inputs = Inputs.read(Path(self.folder))
        image, text = open_towers(self.backend, self.name, Path(self.folder), Path(self.weights), self.threads)
        image(inputs.images(1))
        text(*inputs.text_batches(next(iter(inputs.texts)), 1)[0])
        measured = [{"metric": "cold_start_s", "value": round(time.monotonic() - self.began, 3)}]
        for size in self.batch_sizes:
            measured += self.time("image", size, None, image, [(inputs.images(size),)])
            for language in inputs.texts:
                measured += self.time("text", size, language, text, inputs.text_batches(language, size))
            measured.append({"metric": "peak_bytes", "batch_size": size, "value": peak_bytes()})
        return measured

    def time(
        self, what: str, size: int, language: str | None, call: Callable, arguments: Iterable[tuple]
    ) -> list[dict]:
        """Milliseconds per image or text: median and 95th percentile over calls.

        The first call is never counted, since it may include compilation.

        Args:
            what: `image` or `text`, part of the metric's name.
            size: Batch size.
            language: Language of the texts; None for images.
            call: Function to time.
            arguments: Argument tuples of the calls, used in turn.
        """
        times: list[float] = []
        turn, began = cycle(arguments), time.perf_counter()
        for _ in range(WARM_UP):
            call(*next(turn))
            if time.perf_counter() - began > self.seconds:
                break
        began = time.perf_counter()
        while len(times) < self.repeats:
            argument, before = next(turn), time.perf_counter()
            call(*argument)
            after = time.perf_counter()
            times.append(1000 * (after - before) / size)
            if len(times) >= MIN_CALLS and after - began > self.seconds:
                break
        *_, p95 = statistics.quantiles(times, n=20, method="inclusive")
        fields = {"batch_size": size, "language": language}
        return [
            fields | {"metric": f"ms_per_{what}_p50", "value": round(statistics.median(times), 3)},
            fields | {"metric": f"ms_per_{what}_p95", "value": round(p95, 3)},
        ]


if __name__ == "__main__":
    print(json.dumps(Probe(**json.loads(sys.argv[1])).run()))

"""One model behind one backend, in a process of its own; it prints what it measured as JSON.

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
from training.utils.timing import WARM_UP, peak_bytes

FEWEST = 3


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one process measures.

    Args:
        name: of the model.
        backend: one of `options.BACKENDS`.
        folder: what `prepare` left.
        weights: of the model.
        threads: of the CPU.
        batch_sizes: images or texts a call, ascending.
        repeats: calls of each kind.
        seconds: after which a kind of call is repeated no more, once there are three.
        began: `time.monotonic()` when the process was started.
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
        """Load, answer once, then repeat; the memory of a batch size is read before the next larger one."""
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
        """Milliseconds an image or a text: median and 95th percentile over calls, with the arguments in turn. The
        first call never counts, since a compiler may still be at work in it.
        """
        times: list[float] = []
        turn, began = cycle(arguments), time.perf_counter()
        for _ in range(WARM_UP):
            call(*next(turn))
            if time.perf_counter() - began > self.seconds:
                break
        began = time.perf_counter()
        while len(times) < self.repeats:
            given, before = next(turn), time.perf_counter()
            call(*given)
            after = time.perf_counter()
            times.append(1000 * (after - before) / size)
            if len(times) >= FEWEST and after - began > self.seconds:
                break
        *_, p95 = statistics.quantiles(times, n=20, method="inclusive")
        found = {"batch_size": size, "language": language}
        return [
            found | {"metric": f"ms_per_{what}_p50", "value": round(statistics.median(times), 3)},
            found | {"metric": f"ms_per_{what}_p95", "value": round(p95, 3)},
        ]


if __name__ == "__main__":
    print(json.dumps(Probe(**json.loads(sys.argv[1])).run()))

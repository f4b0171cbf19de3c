"""Read the results of a device budget: milliseconds, memory and bytes of each model behind each backend."""

import statistics
from dataclasses import dataclass

from training.utils.results import Results

REFERENCE = "altclip"


def protocol_of(backend: str, threads: int, batch_size: int | None = None) -> str:
    """How a number was measured, as its row says it."""
    return f"{backend}, threads {threads}" + (f", batch {batch_size}" if batch_size else "")


@dataclass(frozen=True)
class Pair:
    """One model behind one backend at batch 1: an image and a text, the mean over languages.

    Args:
        model: its name.
        backend: one of `options.BACKENDS`.
        threads: of the CPU.
        ms_image: median milliseconds.
        ms_text: likewise.
    """

    model: str
    backend: str
    threads: int
    ms_image: float
    ms_text: float

    @property
    def ms(self) -> float:
        """Of both."""
        return self.ms_image + self.ms_text


def read_pairs(results: Results) -> list[Pair]:
    """Every model, backend and number of threads that was measured at batch 1."""
    pairs = []
    for row in results.rows:
        backend, threads, batch = (row.protocol or "").split(", ") if row.metric == "ms_per_image_p50" else ("",) * 3
        if batch == "batch 1":
            texts = results.values(model=row.model, metric="ms_per_text_p50", protocol=row.protocol)
            if texts:
                pairs.append(Pair(row.model, backend, int(threads.split()[1]), row.value, statistics.fmean(texts)))
    return pairs


def read_costs(results: Results, model: str, backend: str, threads: int) -> dict[str, float | None]:
    """What one model behind one backend takes beside its time: `MB`, `start_s`, `peak_MiB`, and `times_as_fast`, of
    a pair over the reference's behind the same backend. None stands for what could not be measured.
    """
    batch = protocol_of(backend, threads, 1)
    form = backend if backend.startswith("onnx") else "pytorch"
    sources = {
        "MB": ("bytes", form, 1e6),
        "start_s": ("cold_start_s", protocol_of(backend, threads), 1),
        "peak_MiB": ("peak_bytes", batch, 2**20),
        "times_as_fast": ("times_as_fast", f"{batch}, against {backend}", 1),
    }
    costs = {}
    for name, (metric, how, unit) in sources.items():
        value = results.mean(model=model, metric=metric, protocol=how)
        costs[name] = None if value is None else value / unit
    return costs

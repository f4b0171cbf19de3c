"""Read the results of a device budget: latency, memory and size of each model on each backend."""

import statistics
from dataclasses import dataclass

from training.utils.results import Results

REFERENCE = "altclip"


def protocol_of(backend: str, threads: int, batch_size: int | None = None) -> str:
    """The `protocol` of a result row, such as `eager, threads 1, batch 8`.

    Args:
        backend: Name of the backend, such as `onnx-int8`.
        threads: Number of CPU threads.
        batch_size: Number of images or texts in a batch. None if the row has no batch, such as for a cold start.

    Returns:
        The protocol.
    """
    return f"{backend}, threads {threads}" + (f", batch {batch_size}" if batch_size else "")


@dataclass(frozen=True)
class Pair:
    """Latency of one model on one backend at batch 1.

    Args:
        model: Name of the model.
        backend: Name of the backend, such as `onnx-int8`.
        threads: Number of CPU threads.
        ms_image: Median latency of an image in milliseconds.
        ms_text: Median latency of a text in milliseconds, the mean over languages.
    """

    model: str
    backend: str
    threads: int
    ms_image: float
    ms_text: float

    @property
    def ms(self) -> float:
        """Latency of an image and a text together, in milliseconds."""
        return self.ms_image + self.ms_text


def read_pairs(results: Results) -> list[Pair]:
    """One `Pair` for every model, backend and number of threads that was measured at batch 1."""
    pairs = []
    for row in results.rows:
        backend, threads, batch = (row.protocol or "").split(", ") if row.metric == "ms_per_image_p50" else ("",) * 3
        if batch == "batch 1":
            texts = results.values(model=row.model, metric="ms_per_text_p50", protocol=row.protocol)
            if texts:
                pairs.append(Pair(row.model, backend, int(threads.split()[1]), row.value, statistics.fmean(texts)))
    return pairs


def read_costs(results: Results, model: str, backend: str, threads: int) -> dict[str, float | None]:
    """Size, cold start, peak memory and speed-up of one model on one backend.

    Args:
        results: Results of a device budget.
        model: Name of the model.
        backend: Name of the backend.
        threads: Number of CPU threads.

    Returns:
        `MB`, `start_s`, `peak_MiB`, and `times_as_fast`: the speed-up of an image-text pair over `REFERENCE` on the
        same backend. None for values that could not be measured.
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

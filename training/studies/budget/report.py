"""What was measured as a table, and how much faster each model is than the paper's teacher."""

import statistics
from dataclasses import dataclass

from training.studies.budget.options import BudgetOptions
from training.utils.results import Results, Row

REFERENCE = "altclip"


def protocol_of(backend: str, threads: int, batch_size: int | None = None) -> str:
    """How a number was measured, as its row says it."""
    return f"{backend}, threads {threads}" + (f", batch {batch_size}" if batch_size else "")


@dataclass(frozen=True)
class Pair:
    """One model behind one backend at batch 1: a picture and a text, the mean over languages.

    Args:
        model: its name.
        backend: one of `options.BACKENDS`.
        threads: of the CPU.
        ms_picture: median milliseconds.
        ms_text: likewise.
    """

    model: str
    backend: str
    threads: int
    ms_picture: float
    ms_text: float

    @property
    def ms(self) -> float:
        """Of both."""
        return self.ms_picture + self.ms_text


def read_pairs(results: Results) -> list[Pair]:
    """Every model, backend and number of threads that was measured at batch 1."""
    pairs = []
    for row in results.rows:
        backend, threads, batch = (row.protocol or "").split(", ") if row.metric == "ms_per_picture_p50" else ("",) * 3
        if batch == "batch 1":
            texts = results.values(model=row.model, metric="ms_per_text_p50", protocol=row.protocol)
            if texts:
                pairs.append(Pair(row.model, backend, int(threads.split()[1]), row.value, statistics.fmean(texts)))
    return pairs


def derived_rows(results: Results) -> list[Row]:
    """Milliseconds a pair, and over the reference: within a backend, and the best graph over its fp32 graph."""
    pairs, rows = read_pairs(results), []
    for pair in pairs:
        protocol = protocol_of(pair.backend, pair.threads, 1)
        rows.append(Row(pair.model, None, None, protocol, None, "ms_per_pair", round(pair.ms, 3)))
        against = [p for p in pairs if (p.model, p.threads) == (REFERENCE, pair.threads)]
        for other in against:
            if other.backend == pair.backend or (pair.backend.startswith("onnx") and other.backend == "onnx-fp32"):
                versus = f"{protocol}, against {other.backend}"
                rows.append(Row(pair.model, None, None, versus, None, "times_as_fast", round(other.ms / pair.ms, 2)))
    return rows


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


def table(results: Results, options: BudgetOptions) -> str:
    """A block a number of threads, a line a model and backend."""
    lines = []
    for threads in options.threads:
        lines += [f"{threads} thread{'s' * (threads > 1)}, batch 1, median (95th percentile)", header()]
        for model in dict.fromkeys(row.model for row in results.rows):
            for backend in options.backends:
                lines.append(line(results, model, backend, threads))
        lines.append("")
    return "\n".join(lines)


def header() -> str:
    """Of each block."""
    return (
        f"{'model':24}{'backend':>11}{'parameters':>12}{'MB':>9}{'start s':>9}{'peak MiB':>10}"
        f"{'ms/picture':>18}{'ms/text en':>18}{'ms/text zh':>18}{'x altclip':>11}"
    )


def line(results: Results, model: str, backend: str, threads: int) -> str:
    """One model behind one backend; a dash where it could not be measured."""
    costs = read_costs(results, model, backend, threads)

    def one(name: str, digits: int = 1) -> str:
        value = costs[name]
        return "-" if value is None else f"{value:.{digits}f}"

    def time(what: str, language: str | None) -> str:
        protocol = protocol_of(backend, threads, 1)
        values = [
            results.mean(model=model, metric=f"ms_per_{what}_{share}", protocol=protocol, language=language)
            for share in ("p50", "p95")
        ]
        return "-" if None in values else f"{values[0]:.1f} ({values[1]:.1f})"

    parameters = f"{(results.mean(model=model, metric='parameters') or 0) / 1e6:.1f} M"
    return (
        f"{model:24}{backend:>11}{parameters:>12}{one('MB'):>9}{one('start_s'):>9}{one('peak_MiB', 0):>10}"
        f"{time('picture', None):>18}{time('text', 'en'):>18}{time('text', 'zh'):>18}{one('times_as_fast'):>11}"
    )

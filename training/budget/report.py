"""What was measured as a table, and how much faster each model is than the paper's teacher."""

import statistics
from dataclasses import dataclass

from training.budget.options import BudgetOptions
from training.results import Results, Row

REFERENCE = "altclip"


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
        protocol = f"{pair.backend}, threads {pair.threads}, batch 1"
        rows.append(Row(pair.model, None, None, protocol, None, "ms_per_pair", round(pair.ms, 3)))
        against = [p for p in pairs if (p.model, p.threads) == (REFERENCE, pair.threads)]
        for other in against:
            if other.backend == pair.backend or (pair.backend.startswith("onnx") and other.backend == "onnx-fp32"):
                versus = f"{protocol}, against {other.backend}"
                rows.append(Row(pair.model, None, None, versus, None, "times_as_fast", round(other.ms / pair.ms, 2)))
    return rows


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
    protocol = f"{backend}, threads {threads}"
    batch = f"{protocol}, batch 1"
    form = backend if backend.startswith("onnx") else "pytorch"

    def one(metric: str, scale: float, form: str, digits: int = 1, language: str | None = None) -> str:
        value = results.mean(model=model, metric=metric, protocol=form, language=language)
        return "-" if value is None else f"{value / scale:.{digits}f}"

    def time(what: str, language: str | None) -> str:
        values = [one(f"ms_per_{what}_{share}", 1, batch, language=language) for share in ("p50", "p95")]
        return "-" if "-" in values else f"{values[0]} ({values[1]})"

    parameters = f"{(results.mean(model=model, metric='parameters') or 0) / 1e6:.1f} M"
    return (
        f"{model:24}{backend:>11}{parameters:>12}{one('bytes', 1e6, form):>9}{one('cold_start_s', 1, protocol):>9}"
        f"{one('peak_bytes', 2**20, batch, 0):>10}{time('picture', None):>18}"
        f"{time('text', 'en'):>18}{time('text', 'zh'):>18}"
        f"{one('times_as_fast', 1, f'{batch}, against {backend}'):>11}"
    )

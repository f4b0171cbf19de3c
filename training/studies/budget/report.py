"""What was measured as a table, and how much faster each model is than the paper's teacher."""

from training.hub.cards.device_budget import REFERENCE, protocol_of, read_costs, read_pairs
from training.studies.budget.options import BudgetOptions
from training.utils.results import Results, Row


def derived_rows(results: Results) -> list[Row]:
    """Milliseconds a pair, and over the reference: within a backend, and the best graph over its fp32 graph."""
    pairs, rows = read_pairs(results), []
    for pair in pairs:
        protocol = protocol_of(pair.backend, pair.threads, 1)
        rows.append(Row(model=pair.model, protocol=protocol, metric="ms_per_pair", value=round(pair.ms, 3)))
        against = [p for p in pairs if (p.model, p.threads) == (REFERENCE, pair.threads)]
        for other in against:
            if other.backend == pair.backend or (pair.backend.startswith("onnx") and other.backend == "onnx-fp32"):
                versus = f"{protocol}, against {other.backend}"
                rows.append(
                    Row(model=pair.model, protocol=versus, metric="times_as_fast", value=round(other.ms / pair.ms, 2))
                )
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
        f"{'ms/image':>18}{'ms/text en':>18}{'ms/text zh':>18}{'x altclip':>11}"
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
        f"{time('image', None):>18}{time('text', 'en'):>18}{time('text', 'zh'):>18}{one('times_as_fast'):>11}"
    )

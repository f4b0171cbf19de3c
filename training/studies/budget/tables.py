"""Derived result rows, and the text table of a budget."""

from collections.abc import Sequence

from training.hub.cards.device_budget import REFERENCE, protocol_of, read_costs, read_pairs
from training.studies.budget.names import NOTES
from training.utils.results import Results, Row


def derived_rows(results: Results) -> list[Row]:
    """Milliseconds per image-text pair, and the speed-up over the reference.

    The speed-up is relative to the reference behind the same backend and, for ONNX, behind its fp32 graph.
    """
    pairs, rows = read_pairs(results), []
    for pair in pairs:
        protocol = protocol_of(pair.backend, pair.threads, 1)
        rows.append(Row(model=pair.model, protocol=protocol, metric="ms_per_pair", value=round(pair.ms, 3)))
        references = [other for other in pairs if (other.model, other.threads) == (REFERENCE, pair.threads)]
        for other in references:
            if other.backend == pair.backend or (pair.backend.startswith("onnx") and other.backend == "onnx-fp32"):
                versus = f"{protocol}, against {other.backend}"
                speedup = round(other.ms / pair.ms, 2)
                rows.append(Row(model=pair.model, protocol=versus, metric="times_as_fast", value=speedup))
    return rows


def text_table(results: Results, backends: Sequence[str], threads: Sequence[int]) -> str:
    """A block per number of threads, with a line per model and backend, and notes on single models.

    Args:
        results: Results with `derived_rows`.
        backends: Backends in the order of the lines.
        threads: Numbers of threads in the order of the blocks.
    """
    models = list(dict.fromkeys(row.model for row in results.rows))
    lines = []
    for count in threads:
        lines += [f"{count} thread{'s' * (count > 1)}, batch 1, median (95th percentile)", _header()]
        lines += [_line(results, model, backend, count) for model in models for backend in backends]
        lines.append("")
    lines += [f"{model}: {NOTES[model]}." for model in models if model in NOTES]
    return "\n".join(lines)


def _header() -> str:
    return (
        f"{'model':24}{'backend':>11}{'parameters':>12}{'MB':>9}{'start s':>9}{'peak MiB':>10}"
        f"{'ms/image':>18}{'ms/text en':>18}{'ms/text zh':>18}{f'x {REFERENCE}':>11}"
    )


def _line(results: Results, model: str, backend: str, threads: int) -> str:
    """The numbers of one model behind one backend; a dash stands for a failed measurement."""
    costs = read_costs(results, model, backend, threads)

    def cost(name: str, digits: int = 1) -> str:
        value = costs[name]
        return "-" if value is None else f"{value:.{digits}f}"

    def latency(what: str, language: str | None = None) -> str:
        protocol = protocol_of(backend, threads, 1)
        values = [
            results.mean(model=model, metric=f"ms_per_{what}_{quantile}", protocol=protocol, language=language)
            for quantile in ("p50", "p95")
        ]
        return "-" if None in values else f"{values[0]:.1f} ({values[1]:.1f})"

    parameters = f"{(results.mean(model=model, metric='parameters') or 0) / 1e6:.1f} M"
    return (
        f"{model:24}{backend:>11}{parameters:>12}{cost('MB'):>9}{cost('start_s'):>9}{cost('peak_MiB', 0):>10}"
        f"{latency('image'):>18}{latency('text', 'en'):>18}{latency('text', 'zh'):>18}{cost('times_as_fast'):>11}"
    )

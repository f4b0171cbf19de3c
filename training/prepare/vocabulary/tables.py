"""The coverage of a cut as result rows, as a text table and as a plot."""

from pathlib import Path

from training.prepare.vocabulary.coverage import Coverage, table_mib
from training.utils.results import Results, Row

PROTOCOL = "compared with the source"
COLOURS = ("#2a78d6", "#d6452a", "#1a7f37", "#8250df")
SHARES = ("same_pieces", "lost_characters", "unknown_characters", "unknown_pieces")
COUNTS = ("pieces_per_sentence", "sentences", "characters")


def cut_rows(size: int, width: int, coverages: dict[str, Coverage]) -> list[Row]:
    """Result rows of a cut: the coverage of each language, and the size of the embedding table.

    Args:
        size: Number of pieces of the cut.
        width: Width of the embedding table.
        coverages: Coverage by language.
    """
    rows = [
        Row(
            model=f"{size} pieces",
            set="held_out",
            protocol=PROTOCOL,
            language=language,
            metric=metric,
            value=getattr(coverage, metric),
        )
        for language, coverage in coverages.items()
        for metric in SHARES + COUNTS
    ]
    return [*rows, _table_row(f"{size} pieces", size, width)]


def source_rows(size: int, width: int, coverages: dict[str, Coverage]) -> list[Row]:
    """Result rows of the source tokenizer.

    Args:
        size: Number of pieces of the source.
        width: Width of the embedding table.
        coverages: Coverage by language; the source's numbers are the same in that of any cut.
    """
    rows = [
        Row(
            model="source",
            set="held_out",
            protocol=PROTOCOL,
            language=language,
            metric=metric,
            value=getattr(coverage, f"source_{metric}"),
        )
        for language, coverage in coverages.items()
        for metric in ("unknown_characters", "unknown_pieces", "pieces_per_sentence")
    ]
    return [*rows, _table_row("source", size, width)]


def _table_row(model: str, size: int, width: int) -> Row:
    return Row(
        model=model, protocol=f"fp32, width {width}", metric="table_mib", value=round(table_mib(size, width), 2)
    )


def text_table(size: int, source_size: int, width: int, coverages: dict[str, Coverage]) -> str:
    """A text table: a line per language, the size of the embedding table, and the most frequent lost characters.

    Args:
        size: Number of pieces of the cut.
        source_size: Number of pieces of the source.
        width: Width of the embedding table.
        coverages: Coverage by language.
    """
    lines = [
        f"{'':10}{'sentences':>11}{'characters':>12}{'unknown':>10}{'(source)':>10}{'lost':>10}{'unknown pieces':>16}"
        f"{'pieces per sentence':>26}{'same pieces':>13}"
    ]
    for language, coverage in coverages.items():
        pieces = f"{coverage.source_pieces_per_sentence:.2f} -> {coverage.pieces_per_sentence:.2f}"
        lines.append(
            f"{language:10}{coverage.sentences:>11,}{coverage.characters:>12,}{coverage.unknown_characters:>10.4%}"
            f"{coverage.source_unknown_characters:>10.4%}{coverage.lost_characters:>10.4%}{coverage.unknown_pieces:>16.4%}"
            f"{pieces:>26}{coverage.same_pieces:>13.2%}"
        )
    before, after = table_mib(source_size, width), table_mib(size, width)
    lines.append(
        f"embedding table of width {width} in fp32: {source_size:,} pieces, {before:.1f} MiB -> {size:,} pieces, "
        f"{after:.1f} MiB; {before - after:.1f} MiB saved"
    )
    for language, coverage in coverages.items():
        if coverage.lost:
            most_frequent = " ".join(f"{character} {count}" for character, count in list(coverage.lost.items())[:20])
            lines.append(f"lost, {language}: {len(coverage.lost)} characters; most frequent: {most_frequent}")
    return "\n".join(lines)


def plot_curve(results: Results, sizes: list[int], languages: list[str], path: str | Path):
    """Plot unchanged sentences, lost characters and the size of the embedding table over the number of pieces.

    Args:
        results: Results with the rows of all sizes and of the source; the last row is the source's table.
        sizes: Numbers of pieces, ascending.
        languages: Languages to plot.
        path: Path of the PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    axes = figure.subplots(1, 3)
    labels = [f"{size:,}" for size in sizes]
    panels = (
        (axes[0], "same_pieces", "sentences split into the same pieces", "% of sentences"),
        (axes[1], "lost_characters", "characters known to the source only", "% of characters"),
    )
    for axis, metric, title, unit in panels:
        for language, colour in zip(languages, COLOURS, strict=False):
            values = [
                100 * (results.mean(model=f"{size} pieces", language=language, metric=metric) or 0.0) for size in sizes
            ]
            axis.plot(labels, values, "o-", color=colour, label=language)
        axis.set(title=title, xlabel="pieces kept", ylabel=unit)
        axis.legend(frameon=False, fontsize=8)
    axes[1].axhline(0.1, color="grey", ls="--", lw=1)
    axes[1].annotate("0.1 %", (0.02, 0.1), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color="grey")
    names = [*(f"{size} pieces" for size in sizes), "source"]
    values = [results.mean(model=name, metric="table_mib") or 0.0 for name in names]
    axes[2].bar([*labels, "source"], values, color=["#7a8794"] * len(sizes) + ["#c9ced4"])
    axes[2].set(title="embedding table", xlabel="pieces kept", ylabel=f"MiB ({results.rows[-1].protocol})")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)

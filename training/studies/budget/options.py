"""What to measure."""

from dataclasses import dataclass, field

THREADS = (1, 2)
BATCH_SIZES = (1, 8)
BACKENDS = ("eager", "compiled", "onnx-fp32", "onnx-int8")


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """What to measure.

    Args:
        models: names of sizes and baselines.
        model: folders of finished students, measured too, each by its folder's name.
        backends: PyTorch eager or compiled, ONNX Runtime in fp32 or int8.
        threads: CPU threads; each count gets a process of its own.
        batch_sizes: images or texts a call.
        repeats: calls of each kind, if they do not take too long.
        seconds: that is too long for one kind of call; at least three are made.
        quality: JSON file `{"name": "top-1 of ...", "values": {model: share}}`, the plot's vertical axis in place of
            parameters.
        output_dir: results.json, table.txt and budget.png.
    """

    models: list[str]
    model: list[str] = field(default_factory=list)
    backends: list[str] = field(default_factory=lambda: list(BACKENDS))
    threads: list[int] = field(default_factory=lambda: list(THREADS))
    batch_sizes: list[int] = field(default_factory=lambda: list(BATCH_SIZES))
    repeats: int = 32
    seconds: float = 5.0
    quality: str | None = None
    output_dir: str = "model_cards/results/budget"

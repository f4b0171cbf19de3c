"""Measure one model on one backend in a process of its own, and print the values as JSON. `budget` starts it.

    python -m training.studies.probe '{"name": ..., "backend": ..., ...}'

Nothing here imports PyTorch unless it is the backend, so that the cold start and the memory are the backend's.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from training.utils.process import WARM_UP, peak_bytes

IMAGE_MS, TEXT_MS = "ms_per_image_p50", "ms_per_text_p50"
Call = Callable[..., object]


def main(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure cold start, latency at batch 1, and peak memory.

    Args:
        spec: `name`, `weights`, `folder`, `backend`, `threads`, `repeats`, and `began`, the value of
            `time.monotonic()` when the process was started.

    Returns:
        `metric`, `value` and, for texts, `language` of each measurement.
    """
    inputs = json.loads((Path(spec["folder"]) / "inputs.json").read_text(encoding="utf-8"))
    image, text = open_towers(spec)
    size = inputs["image_size"]
    pixels = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)
    texts = {}
    for language, sequences in inputs["texts"].items():
        ids = [np.array([each], np.int64) for each in sequences]
        texts[language] = [(each, np.ones_like(each)) for each in ids]
    image(pixels)
    text(*texts["en"][0])
    cold_start = round(time.monotonic() - spec["began"], 3)
    measured: list[dict[str, Any]] = [{"metric": "cold_start_s", "value": cold_start}]
    value = median_ms(image, [(pixels,)], spec["repeats"])
    measured.append({"metric": IMAGE_MS, "value": value})
    for language, arguments in texts.items():
        value = median_ms(text, arguments, spec["repeats"])
        measured.append({"metric": TEXT_MS, "value": value, "language": language})
    return [*measured, {"metric": "peak_bytes", "value": peak_bytes()}]


def open_towers(spec: dict[str, Any]) -> tuple[Call, Call]:
    """Load both towers: functions of pixels (B, 3, S, S), and of token ids and mask (B, L)."""
    folder, backend = Path(spec["folder"]), spec["backend"]
    if backend == "eager":
        import torch

        from training.studies.baselines import load_weights

        torch.set_num_threads(spec["threads"])
        torch.set_grad_enabled(False)
        encoder = load_weights(spec["name"], Path(spec["weights"]))
        towers = encoder.image_tower.eval(), encoder.text_tower.eval()
        return tuple(  # type: ignore[return-value]
            lambda *arrays, tower=tower: tower(*map(torch.from_numpy, arrays)) for tower in towers
        )
    from training.edge.session import open_session

    vision = open_session(folder / f"vision-{backend}.onnx", spec["threads"])
    language = open_session(folder / f"text-{backend}.onnx", spec["threads"])
    return (
        lambda pixels: vision.run(None, {"pixel_values": pixels}),
        lambda ids, mask: language.run(None, {"input_ids": ids, "attention_mask": mask}),
    )


def median_ms(call: Call, arguments: list[tuple], repeats: int) -> float:
    """Median milliseconds of `repeats` calls, whose arguments take turns, after `WARM_UP` calls."""
    times = []
    for argument in islice(cycle(arguments), WARM_UP + repeats):
        began = time.perf_counter()
        call(*argument)
        times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times[WARM_UP:]), 3)


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))

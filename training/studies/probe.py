"""Measure one model on one backend in a process of its own, and print rows as JSON. `budget` starts it.

    python -m training.studies.probe '{"name": ..., "backend": ..., ...}'

Nothing here imports PyTorch unless it is the backend, so that the cold start and the memory are the backend's.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from training.utils.process import WARM_UP, peak_bytes

MIN_CALLS = 3
Call = Callable[..., object]


def main(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure cold start, then latency and peak memory of each batch size in ascending order.

    Args:
        spec: `name`, `weights`, `folder`, `backend`, `threads`, `batch_sizes`, `repeats`, `seconds`, and `began`, the
            value of `time.monotonic()` when the process was started.

    Returns:
        Dicts with `metric`, `value` and, where they apply, `batch_size` and `language`.
    """
    folder = Path(spec["folder"])
    inputs = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    size, pad = inputs["image_size"], inputs["pad_token_id"]
    image, text = open_towers(spec)
    pixels = np.random.default_rng(0).standard_normal(
        (max(spec["batch_sizes"]), 3, size, size), dtype=np.float32
    )
    image(pixels[:1])
    text(*text_batches(inputs["texts"]["en"], 1, pad)[0])
    measured: list[dict[str, Any]] = [
        {"metric": "cold_start_s", "value": round(time.monotonic() - spec["began"], 3)}
    ]
    limits = {"repeats": spec["repeats"], "seconds": spec["seconds"]}
    for batch_size in spec["batch_sizes"]:
        fields = {"batch_size": batch_size}
        measured += time_calls(image, [(pixels[:batch_size],)], "image", fields, **limits)
        for language, texts in inputs["texts"].items():
            batches = text_batches(texts * -(-batch_size // len(texts)), batch_size, pad)
            measured += time_calls(text, batches, "text", fields | {"language": language}, **limits)
        measured.append(fields | {"metric": "peak_bytes", "value": peak_bytes()})
    return measured


def open_towers(spec: dict[str, Any]) -> tuple[Call, Call]:
    """Load both towers: functions of pixels (B, 3, S, S), and of token ids and mask (B, L)."""
    folder, backend = Path(spec["folder"]), spec["backend"]
    if backend == "eager":
        import torch

        from training.studies.baselines import load_weights

        torch.set_num_threads(spec["threads"])
        torch.set_grad_enabled(False)
        encoder = load_weights(spec["name"], Path(spec["weights"]))
        image, text = encoder.image_tower.eval(), encoder.text_tower.eval()
        return lambda *arrays: image(*map(torch.from_numpy, arrays)), lambda *arrays: text(
            *map(torch.from_numpy, arrays)
        )
    from training.edge.session import open_session

    vision, language = (
        open_session(folder / f"{tower}-{backend}.onnx", spec["threads"])
        for tower in ("vision", "text")
    )
    return (
        lambda pixels: vision.run(None, {"pixel_values": pixels}),
        lambda ids, mask: language.run(None, {"input_ids": ids, "attention_mask": mask}),
    )


def text_batches(
    texts: list[list[int]], batch_size: int, pad: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Token ids and masks, (B, L) int64, in full batches, each padded to its longest text."""
    batches = []
    for start in range(0, len(texts) - batch_size + 1, batch_size):
        part = texts[start : start + batch_size]
        length = max(map(len, part))
        ids = np.array([[*each, *[pad] * (length - len(each))] for each in part], np.int64)
        mask = np.array([[1] * len(each) + [0] * (length - len(each)) for each in part], np.int64)
        batches.append((ids, mask))
    return batches


def time_calls(
    call: Call,
    arguments: list[tuple],
    what: str,
    fields: dict[str, Any],
    repeats: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """Median and 95th percentile of the milliseconds per image or text.

    The first call is never counted. A kind of call ends after `repeats` calls, or after `seconds` and three calls.
    """
    times: list[float] = []
    turn, began = cycle(arguments), time.perf_counter()
    for _ in range(WARM_UP):
        call(*next(turn))
        if time.perf_counter() - began > seconds:
            break
    began = time.perf_counter()
    while len(times) < repeats:
        argument, before = next(turn), time.perf_counter()
        call(*argument)
        after = time.perf_counter()
        times.append(1000 * (after - before) / fields["batch_size"])
        if len(times) >= MIN_CALLS and after - began > seconds:
            break
    *_, p95 = statistics.quantiles(times, n=20, method="inclusive")
    return [
        fields | {"metric": f"ms_per_{what}_p50", "value": round(statistics.median(times), 3)},
        fields | {"metric": f"ms_per_{what}_p95", "value": round(p95, 3)},
    ]


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))

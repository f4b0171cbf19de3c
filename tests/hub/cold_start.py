"""Measure the time from a published folder to its first result, compared with transformers' CLIP of the same size.

Examples:
  python -m tests.hub.cold_start
  python -m tests.hub.cold_start --folder runs/demo/model --repeats 9

Each start is a new process with empty caches: import, load, classify one image with ten labels. Both models alternate,
so that other load on the machine affects both. The exit code is 1 if ours takes more than 1.3 times as long.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from training.utils.cli import parse_options

LIMIT = 1.3
FIRST_RESULT = """
import sys
from transformers import pipeline
classify = pipeline("zero-shot-image-classification", model=sys.argv[1], trust_remote_code=sys.argv[3] == "ours")
results = classify(sys.argv[2], candidate_labels=[f"image {n}" for n in range(10)])
assert len(results) == 10
"""


@dataclass(frozen=True, kw_only=True)
class ColdStartOptions:
    """What to measure.

    Args:
        folder: Finished Hub folder of a DC-CLIP model; default: the teacher of the demo.
        repeats: Number of starts of each model; the median counts.
    """

    folder: str | None = None
    repeats: int = 7


def save_clip(folder: Path, reference: Path) -> Path:
    """Save transformers' CLIP with the input, tokenizer and, within 3 %, the number of parameters of our model.

    Args:
        folder: Folder to write.
        reference: Folder of our model.
    """
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from modeling_dcclip import DCCLIPModel, DCCLIPProcessor

    ours, processor = DCCLIPModel.from_pretrained(reference), DCCLIPProcessor.from_pretrained(reference)
    size, tokenizer = ours.config.image_size, processor.tokenizer
    num_parameters = ours.num_parameters()
    for width in range(16, 1024, 4):
        tower = {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
        }
        special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        clip = CLIPModel(
            CLIPConfig(
                text_config=tower | special | {"vocab_size": len(tokenizer), "max_position_embeddings": 77},
                vision_config=tower | {"image_size": size, "patch_size": 16},
                projection_dim=ours.config.projection_dim,
            )
        )
        if clip.num_parameters() >= 0.97 * num_parameters:
            break
    print(f"parameters: ours {num_parameters:,}, CLIP {clip.num_parameters():,}")
    clip.save_pretrained(folder)
    image_processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


def time_start(folder: Path, image: Path, name: str) -> float:
    """Seconds from the start of a process to its first result.

    Args:
        folder: Folder of the model.
        image: Image file to classify.
        name: `ours` or `clip`.
    """
    with tempfile.TemporaryDirectory(prefix="dcclip-start-") as home:
        environment = {"HF_HOME": home, "HF_MODULES_CACHE": f"{home}/modules", "HF_HUB_OFFLINE": "1", "PATH": ""}
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-I", "-c", FIRST_RESULT, str(folder), str(image), name],
            env=environment,
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - began


def main(argv: list[str] | None = None) -> int:
    """Measure both models, print the medians, and return the exit code."""
    options = parse_options(ColdStartOptions, argv, prog="python -m tests.hub.cold_start", description=__doc__)
    # after parsing, so that --help does not load torch
    from tests.hub.versions import mini_teacher
    from training.hub.check import draw_image

    with tempfile.TemporaryDirectory(prefix="dcclip-cold-") as home:
        ours = Path(options.folder).resolve() if options.folder else mini_teacher(Path(home) / "ours")
        folders = {"ours": ours, "clip": save_clip(Path(home) / "clip", ours)}
        image = Path(home) / "image.png"
        draw_image().save(image)
        seconds: dict[str, list[float]] = {name: [] for name in folders}
        for _ in range(options.repeats):
            for name, folder in folders.items():
                seconds[name].append(time_start(folder, image, name))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["ours"] / medians["clip"]
    print(f"ours {medians['ours']:.2f} s, CLIP {medians['clip']:.2f} s, ratio {ratio:.2f} (limit {LIMIT})")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())

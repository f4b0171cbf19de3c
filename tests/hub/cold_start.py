"""Measure the cold start of a published folder, compared with transformers' CLIP of the same size.

python -m tests.hub.cold_start
python -m tests.hub.cold_start --folder runs/demo/model --repeats 9

Each start is a new process with empty caches: import, load, one image with ten labels. The two models take turns, so
that load on the machine affects both. The exit code is 1 if DC-CLIP takes more than 1.3 times as long.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from tests.hub.versions import save_mini_teacher
from training.hub.self_check import draw_image

LIMIT = 1.3
CLASSIFY = """
import sys
from transformers import pipeline
classify = pipeline("zero-shot-image-classification", model=sys.argv[1], trust_remote_code=sys.argv[3] == "dcclip")
scores = classify(sys.argv[2], candidate_labels=[f"image {n}" for n in range(10)])
assert len(scores) == 10
"""


def save_clip(folder: Path, like: Path) -> Path:
    """Save a transformers CLIP with the image size, tokenizer and number of parameters (within 3 %) of `like`."""
    dcclip, processor = DCCLIPModel.from_pretrained(like), DCCLIPProcessor.from_pretrained(like)
    size, tokenizer = dcclip.config.image_size, processor.tokenizer
    num_parameters = dcclip.num_parameters()
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
                projection_dim=dcclip.config.projection_dim,
            )
        )
        if clip.num_parameters() >= 0.97 * num_parameters:
            break
    print(f"parameters: DC-CLIP {num_parameters:,}, CLIP {clip.num_parameters():,}")
    clip.save_pretrained(folder)
    image_processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


def start(folder: Path, image: Path, model: str) -> float:
    """Seconds from the start of a process to its first scores. `model` is `dcclip` or `clip`."""
    with tempfile.TemporaryDirectory(prefix="dcclip-start-") as home:
        environment = {"HF_HOME": home, "HF_MODULES_CACHE": f"{home}/modules", "HF_HUB_OFFLINE": "1", "PATH": ""}
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-I", "-c", CLASSIFY, str(folder), str(image), model],
            env=environment,
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - began


def main(argv: list[str] | None = None) -> int:
    """Measure and compare both models."""
    parser = argparse.ArgumentParser(prog="python -m tests.hub.cold_start", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="Finished Hub folder. Default: the demo's teacher.")
    parser.add_argument("--repeats", type=int, default=7, help="Starts per model.")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="dcclip-cold-") as home:
        dcclip = Path(options.folder).resolve() if options.folder else save_mini_teacher(Path(home) / "dcclip")
        folders = {"dcclip": dcclip, "clip": save_clip(Path(home) / "clip", dcclip)}
        image = Path(home) / "image.png"
        image.write_bytes(draw_image())
        seconds: dict[str, list[float]] = {name: [] for name in folders}
        for _ in range(options.repeats):
            for name, folder in folders.items():
                seconds[name].append(start(folder, image, name))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["dcclip"] / medians["clip"]
    print(f"DC-CLIP {medians['dcclip']:.2f} s, CLIP {medians['clip']:.2f} s, ratio {ratio:.2f} (at most {LIMIT})")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())

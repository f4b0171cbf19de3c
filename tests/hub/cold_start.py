"""From a published folder to its first answer, beside transformers' own CLIP of the same size, in one run.

python -m tests.hub.cold_start
python -m tests.hub.cold_start --folder runs/demo/model --repeats 9

Each start is a process of its own with empty caches: import, load, one image with ten labels. The two take turns, so
that whatever else runs slows both. Ends with 1 if ours takes more than 1.3 times as long.
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
from tests.hub.versions import mini_teacher
from training.hub.self_check import draw_image

LIMIT = 1.3
ANSWER = """
import sys
from transformers import pipeline
classify = pipeline("zero-shot-image-classification", model=sys.argv[1], trust_remote_code=sys.argv[3] == "ours")
answers = classify(sys.argv[2], candidate_labels=[f"image {n}" for n in range(10)])
assert len(answers) == 10
"""


def save_clip(folder: Path, like: Path) -> Path:
    """transformers' CLIP with the same input, tokenizer and number of parameters, within 3 %."""
    ours, processor = DCCLIPModel.from_pretrained(like), DCCLIPProcessor.from_pretrained(like)
    size, tokenizer = ours.config.image_size, processor.tokenizer
    wanted = ours.num_parameters()
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
        if clip.num_parameters() >= 0.97 * wanted:
            break
    print(f"parameters: ours {wanted:,}, CLIP {clip.num_parameters():,}")
    clip.save_pretrained(folder)
    image_processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


def start(folder: Path, image: Path, whose: str) -> float:
    """Seconds from nothing to the first answer."""
    with tempfile.TemporaryDirectory(prefix="dcclip-start-") as home:
        environment = {"HF_HOME": home, "HF_MODULES_CACHE": f"{home}/modules", "HF_HUB_OFFLINE": "1", "PATH": ""}
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-I", "-c", ANSWER, str(folder), str(image), whose],
            env=environment,
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - began


def main(argv: list[str] | None = None) -> int:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.hub.cold_start", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="a finished Hub folder; default: the demo's teacher")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="dcclip-cold-") as home:
        ours = Path(options.folder).resolve() if options.folder else mini_teacher(Path(home) / "ours")
        folders = {"ours": ours, "clip": save_clip(Path(home) / "clip", ours)}
        image = Path(home) / "image.png"
        image.write_bytes(draw_image())
        seconds: dict[str, list[float]] = {name: [] for name in folders}
        for _ in range(options.repeats):
            for name, folder in folders.items():
                seconds[name].append(start(folder, image, name))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["ours"] / medians["clip"]
    print(f"ours {medians['ours']:.2f} s, CLIP {medians['clip']:.2f} s, ratio {ratio:.2f} (at most {LIMIT})")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())

"""Load a folder as a user without this package does, and print its outputs as JSON.

python -I isolated_load.py FOLDER IMAGE TEXTS

TEXTS is a JSON list. [`training.hub.check`] runs this script in a process of its own.
"""

import json
import sys
from typing import Any


class HidePackages:
    """A module finder that hides this project's packages, wherever they are installed."""

    def find_spec(self, name: str, path=None, target=None):
        """Raise an error for this project's packages; leave all others to the other finders."""
        if name.partition(".")[0] in ("modeling_dcclip", "training"):
            raise ModuleNotFoundError(
                f"{name} is hidden: a published folder must load without it", name=name
            )


def embed(model: Any, processor: Any, image: Any, texts: list[str]) -> dict[str, Any]:
    """Compute embeddings of an image and texts.

    Returns:
        `text_embeds` (N, D) and `image_embeds` (1, D), L2-normalized, as lists.
    """
    import torch

    inputs = processor(
        images=image,
        text=texts,
        truncation=True,
        max_length=model.config.max_text_length,
        return_tensors="pt",
    )
    with torch.no_grad():
        outputs = model(**inputs)
    return {
        "text_embeds": outputs.text_embeds.tolist(),
        "image_embeds": outputs.image_embeds.tolist(),
    }


def main(folder: str, image_path: str, texts_json: str):
    """Compute embeddings through model and processor, and run the pipeline."""
    sys.meta_path.insert(0, HidePackages())
    import torch
    from PIL import Image
    from transformers import AutoModel, AutoProcessor, pipeline

    image = Image.open(image_path)
    texts = json.loads(texts_json)
    trusted: Any = {"trust_remote_code": True, "dtype": torch.float32}
    model = AutoModel.from_pretrained(folder, **trusted).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    result = embed(model, processor, image, texts)
    classify = pipeline("zero-shot-image-classification", model=folder, **trusted)
    classify(image, candidate_labels=texts, hypothesis_template="{}")
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Run by [`training.hub.check`] in a process of its own: loads a folder as one who has nothing but transformers.

python -I isolated_load.py FOLDER
"""

import base64
import io
import json
import sys
from pathlib import Path


class Absent:
    """A finder that hides this project's packages, however they were installed."""

    def find_spec(self, name: str, path=None, target=None):
        """Refuse ours, leave the rest to the others."""
        if name.partition(".")[0] in ("modeling_dcclip", "training"):
            raise ModuleNotFoundError(f"{name} is hidden here: a published folder must load without it", name=name)


def main(folder: str):
    """Embeddings through model and processor, answers through the pipeline, as JSON."""
    sys.meta_path.insert(0, Absent())
    import torch
    from PIL import Image
    from transformers import AutoModel, AutoProcessor, pipeline

    wanted = json.loads(Path(folder, "self_check.json").read_text(encoding="utf-8"))
    image = Image.open(io.BytesIO(base64.b64decode(wanted["image"])))
    texts = [text for language in wanted["texts"].values() for text in language]
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    limit = {"truncation": True, "max_length": model.config.max_text_length}
    with torch.no_grad():
        outputs = model(**processor(images=image, text=texts, return_tensors="pt", **limit))
    classify = pipeline("zero-shot-image-classification", model=folder, trust_remote_code=True, dtype=torch.float32)
    answers = {
        language: classify(image, candidate_labels=labels, hypothesis_template="{}")
        for language, labels in wanted["texts"].items()
    }
    found = {
        "text_embeds": outputs.text_embeds.tolist(),
        "image_embeds": outputs.image_embeds.tolist(),
        "logits": outputs.logits_per_image[0].tolist(),
        "answers": answers,
        "modules": [type(model).__module__, type(processor).__module__],
    }
    print("FOUND " + json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])

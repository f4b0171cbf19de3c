"""Load a folder as a user without this package does, and print its outputs as JSON.

python -I isolated_load.py FOLDER IMAGE TEXTS

TEXTS is JSON: lists of labels by language. [`training.hub.check`] runs this script in a process of its own.
"""

import json
import sys


class HidePackages:
    """A module finder that hides this project's packages, wherever they are installed."""

    def find_spec(self, name: str, path=None, target=None):
        """Raise an error for this project's packages; leave all others to the other finders."""
        if name.partition(".")[0] in ("modeling_dcclip", "training"):
            raise ModuleNotFoundError(
                f"{name} is hidden: a published folder must load without it", name=name
            )


def main(folder: str, image_path: str, texts_json: str):
    """Compute embeddings through model and processor, and predictions through the pipeline."""
    sys.meta_path.insert(0, HidePackages())
    import torch
    from PIL import Image
    from transformers import AutoModel, AutoProcessor, pipeline

    image, texts_by_language = Image.open(image_path), json.loads(texts_json)
    texts = [text for texts in texts_by_language.values() for text in texts]
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    limit = {"truncation": True, "max_length": model.config.max_text_length}
    with torch.no_grad():
        outputs = model(**processor(images=image, text=texts, return_tensors="pt", **limit))
    classify = pipeline(
        "zero-shot-image-classification", model=folder, trust_remote_code=True, dtype=torch.float32
    )
    predictions = {
        language: classify(image, candidate_labels=labels, hypothesis_template="{}")
        for language, labels in texts_by_language.items()
    }
    result = {
        "text_embeds": outputs.text_embeds.tolist(),
        "image_embeds": outputs.image_embeds.tolist(),
        "logits": outputs.logits_per_image[0].tolist(),
        "predictions": predictions,
    }
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])

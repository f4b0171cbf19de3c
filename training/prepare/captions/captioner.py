"""A captioner of transformers."""

from typing import Any

import torch
from PIL import Image as PILImage
from transformers import AutoModelForImageTextToText, AutoProcessor

from training.prepare.captions.options import CaptionsOptions
from training.teachers.lineage import digest_folder, find_commit

TOP_P = 0.9  # of sampled captions


class Captioner:
    """Captions images.

    Args:
        options: Options of the command.

    Attributes:
        revision: Commit of the Hub id, or digest of the weights of a folder.

    Raises:
        ValueError: There is no such model, or it captions no images.
    """

    def __init__(self, options: CaptionsOptions):
        self.options = options
        name, dtype = options.model, getattr(torch, options.dtype)
        try:
            commit = find_commit(name)
            fields: dict[str, Any] = {"revision": commit or "main", "trust_remote_code": False}
            self.processor = AutoProcessor.from_pretrained(name, **fields)
            self.model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **fields)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"model: {name!r} is no captioner that transformers can load ({reason}). Name a model such as "
                "Salesforce/blip-image-captioning-base."
            ) from error
        self.model = self.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.revision = commit or digest_folder(name)

    @torch.inference_mode()
    def __call__(self, images: list[PILImage.Image]) -> list[list[str]]:
        """Captions of images, `num_captions` for each.

        Args:
            images: RGB images, at least one.
        """
        options = self.options
        inputs = self.processor(images=images, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        sampling = {"do_sample": True, "top_p": TOP_P, "num_return_sequences": options.num_captions}
        ids = self.model.generate(
            pixel_values=pixels,
            max_new_tokens=options.max_new_tokens,
            **(sampling if options.num_captions > 1 else {"do_sample": False}),
        )
        texts = [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]
        return [texts[start : start + options.num_captions] for start in range(0, len(texts), options.num_captions)]

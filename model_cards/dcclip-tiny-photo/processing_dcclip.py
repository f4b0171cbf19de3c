"""Processor of DC-CLIP: a transformers image processor and a transformers tokenizer."""

import os
from pathlib import Path

from PIL import Image
from transformers import ProcessorMixin
from transformers.processing_utils import ProcessingKwargs

from .image_dcclip import ImageError, crop_to_aspect, lower_tall, open_image, squashes, to_rgb


class DCCLIPProcessorKwargs(ProcessingKwargs, total=False):
    """Options of [`DCCLIPProcessor`], with the defaults that differ from those of its two parts."""

    _defaults = {"text_kwargs": {"padding": True}}  # type: ignore[misc]  # noqa: RUF012


class DCCLIPProcessor(ProcessorMixin):
    """Preprocess images and tokenize texts.

    All text normalization (Unicode form, case, special tokens) is in `tokenizer.json`, so the zero-shot pipeline, the
    browser and training get equal token ids. This class adds padding to the longest text of a batch, and prepares
    Pillow images and image files as in training: upright, 8 bits, transparent ones flattened onto white.

    Args:
        image_processor: Any transformers image processor.
        tokenizer: Any fast transformers tokenizer.
    """

    valid_processor_kwargs = DCCLIPProcessorKwargs

    def __init__(self, image_processor=None, tokenizer=None):
        super().__init__(image_processor, tokenizer)

    def __call__(self, images=None, text=None, **kwargs):
        """Preprocess images, tokenize texts, or both.

        Args:
            images: Image or list of images: PIL images, paths, URLs, arrays or tensors. Arrays and tensors have three
                channels, and values of 0..255 unless `do_rescale` is False.
            text: Text or list of texts.
            kwargs: Options such as `return_tensors`, `padding` (default: True), `truncation` and `max_length`, or
                dicts `text_kwargs` and `images_kwargs` with options of the tokenizer and of the image processor.

        Returns:
            A `BatchFeature` with `pixel_values` if images are given, and `input_ids` and `attention_mask` if texts
            are given.

        Raises:
            ValueError: `images` or `text` is an empty list, or a file does not decode; the message names it.
        """
        for name, values in {"images": images, "text": text}.items():
            if isinstance(values, (list, tuple)) and not values:
                raise ValueError(f"{name}: got an empty list. Pass at least one item, or None.")
        for name in ("text_kwargs", "images_kwargs"):
            if kwargs.get(name) is None:
                kwargs.pop(name, None)
        return super().__call__(images=self.prepare_images(images), text=text, **kwargs)

    def prepare_images(self, images):
        """Prepare Pillow images and paths of images, also in nested lists, as in training.

        Other values are returned as they are: arrays, tensors, URLs and base64.
        """
        if isinstance(images, (list, tuple)):
            return [self.prepare_images(image) for image in images]
        if isinstance(images, Image.Image):
            image = to_rgb(images)
        elif isinstance(images, (str, Path)) and os.path.isfile(
            images
        ):  # transformers would drop transparency
            image = _open(images)
        else:
            return images
        if not squashes(self.image_processor):
            return crop_to_aspect(image)
        return lower_tall(image, self.image_processor.size["height"], Image.Resampling.BICUBIC)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save the processor, the tokenizer and `preprocessor_config.json`, which transformers.js requires."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        self.image_processor.save_pretrained(save_directory)
        return files


def _open(path: str | Path) -> Image.Image:
    try:
        return open_image(path)
    except ImageError as error:
        raise ValueError(
            f"images: {str(path)!r} does not decode ({error}). Pass another file."
        ) from error


__all__ = ["DCCLIPProcessor"]

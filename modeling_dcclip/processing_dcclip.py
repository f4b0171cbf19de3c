"""The processor of DC-CLIP: a stock image processor and a stock tokenizer."""

from transformers import ProcessorMixin


class DCCLIPProcessor(ProcessorMixin):
    """Prepares images and texts.

    All text preparation (Unicode form, case, special tokens) lives in the tokenizer's own `tokenizer.json`, so that
    the pipeline, a browser and training agree; this class adds only padding to the longest text of a batch.

    Args:
        image_processor: any transformers image processor.
        tokenizer: any fast transformers tokenizer.
    """

    def __init__(self, image_processor=None, tokenizer=None):
        super().__init__(image_processor, tokenizer)

    def __call__(self, images=None, text=None, **kwargs):
        """Prepare an image or a list of them, a text or a list of them, or both.

        Args:
            images: PIL images, arrays or tensors.
            text: strings.
            kwargs: `return_tensors`, `padding` (default: True), `truncation`, `max_length` and the like; those of the
                tokenizer may also stand in a dict `text_kwargs`.

        Returns:
            A `BatchFeature` with `pixel_values`, and `input_ids` and `attention_mask`, as far as asked for.
        """
        if text is not None and "padding" not in kwargs.get("text_kwargs", {}):
            kwargs.setdefault("padding", True)
        return super().__call__(images=images, text=text, **kwargs)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save processor and tokenizer, and `preprocessor_config.json`, which transformers.js reads."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        self.image_processor.save_pretrained(save_directory)
        return files


__all__ = ["DCCLIPProcessor"]

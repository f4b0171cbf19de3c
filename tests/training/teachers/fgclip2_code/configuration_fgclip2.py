"""Config of the stand-in."""

from transformers import PreTrainedConfig, Siglip2TextConfig, Siglip2VisionConfig


class Fgclip2Config(PreTrainedConfig):
    """Config of both towers."""

    model_type = "fgclip2"
    sub_configs = {"text_config": Siglip2TextConfig, "vision_config": Siglip2VisionConfig}  # noqa: RUF012

    def __init__(self, text_config=None, vision_config=None, **fields):
        self.text_config = Siglip2TextConfig(**(text_config or {}))
        self.vision_config = Siglip2VisionConfig(**(vision_config or {}))
        super().__init__(**fields)

"""DC-CLIP: small Chinese-English CLIP models for transformers, and a runtime and photo search without PyTorch.

These files also travel with every model, so that it loads where this package is not installed:

    configuration_dcclip.py  DCCLIPConfig
    modeling_dcclip.py       DCCLIPModel and its single towers
    processing_dcclip.py     DCCLIPProcessor
    image_dcclip.py          opens images in one way everywhere
    runtime_dcclip.py        Runtime: encodes images and texts with ONNX Runtime
    handler.py               request handler for Inference Endpoints

The others are parts of the package alone:

    command.py               the `dcclip` command
    search/                  an index of photographs: `search.index.Index`
    integrations/            open_clip

Importing this package imports neither torch nor transformers. The first access to one of its classes registers the
model family with the transformers Auto classes:

    from modeling_dcclip import DCCLIPModel
    model = DCCLIPModel.from_pretrained("runs/demo/model")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_dcclip import DCCLIPConfig
    from .modeling_dcclip import (
        DCCLIPModel,
        DCCLIPPreTrainedModel,
        DCCLIPTextModelWithProjection,
        DCCLIPVisionModelWithProjection,
    )
    from .processing_dcclip import DCCLIPProcessor

__version__ = "0.1.0"

__all__ = [
    "DCCLIPConfig",
    "DCCLIPModel",
    "DCCLIPPreTrainedModel",
    "DCCLIPProcessor",
    "DCCLIPTextModelWithProjection",
    "DCCLIPVisionModelWithProjection",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForZeroShotImageClassification,
        AutoProcessor,
    )

    from . import configuration_dcclip, modeling_dcclip, processing_dcclip

    for module in (configuration_dcclip, modeling_dcclip, processing_dcclip):
        globals().update({each: getattr(module, each) for each in module.__all__})
    config, model = configuration_dcclip.DCCLIPConfig, modeling_dcclip.DCCLIPModel
    processor = processing_dcclip.DCCLIPProcessor
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, model, exist_ok=True)
    AutoModelForZeroShotImageClassification.register(config, model, exist_ok=True)
    AutoProcessor.register(config, processor, exist_ok=True)
    # a saved folder then carries these files, so it loads where this package is not installed
    config.register_for_auto_class()
    processor.register_for_auto_class("AutoProcessor")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

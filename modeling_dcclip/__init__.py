"""DC-CLIP: small bilingual (Chinese and English) CLIP models, registered with the transformers Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

from .configuration_dcclip import DCCLIPConfig
from .modeling_dcclip import (
    DCCLIPModel,
    DCCLIPPreTrainedModel,
    DCCLIPTextModelWithProjection,
    DCCLIPVisionModelWithProjection,
)
from .processing_dcclip import DCCLIPProcessor

__version__ = "0.1.0"

AutoConfig.register(DCCLIPConfig.model_type, DCCLIPConfig, exist_ok=True)
AutoModel.register(DCCLIPConfig, DCCLIPModel, exist_ok=True)
AutoModelForZeroShotImageClassification.register(DCCLIPConfig, DCCLIPModel, exist_ok=True)
AutoProcessor.register(DCCLIPConfig, DCCLIPProcessor, exist_ok=True)
# a saved folder carries this package's files, so that it loads where the package is not installed
DCCLIPConfig.register_for_auto_class()
DCCLIPModel.register_for_auto_class("AutoModel")
DCCLIPProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "DCCLIPConfig",
    "DCCLIPModel",
    "DCCLIPPreTrainedModel",
    "DCCLIPProcessor",
    "DCCLIPTextModelWithProjection",
    "DCCLIPVisionModelWithProjection",
]

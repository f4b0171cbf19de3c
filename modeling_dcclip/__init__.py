"""DC-CLIP: small Chinese-English CLIP models for transformers, and a runtime without PyTorch.

    configuration_dcclip.py  DCCLIPConfig
    modeling_dcclip.py       DCCLIPModel and its single towers
    processing_dcclip.py     DCCLIPProcessor
    image_dcclip.py          open images, in one way everywhere
    handler.py               request handler for Inference Endpoints
    runtime_dcclip.py        Runtime: encodes images and texts with ONNX Runtime
    index_dcclip.py          Index: an index of photographs on disk, with the modules manifest, vectors, catalog,
                             photos, indexing, query, space, graph, upgrade, adapt, thumbnails,
                             duplicates, serve, page
    command.py               the `dcclip` command, with search_command.py
    fastembed_dcclip.py      both towers in fastembed and Qdrant
    mteb_dcclip.py           metadata and loader for mteb
    open_clip_dcclip.py      conversion for open_clip and the tools that build on it

Importing this package imports neither torch nor transformers. The classes load on first access, and the model family
is registered with the transformers Auto classes as soon as transformers is imported:

    import modeling_dcclip
    from transformers import AutoModel
    model = AutoModel.from_pretrained("runs/demo/model")
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
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

_MODULES = ("configuration_dcclip", "modeling_dcclip", "processing_dcclip")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module_name in _MODULES:
            module = importlib.import_module(f"{__name__}.{module_name}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _RegisterOnImport:
    """Import hook that registers the model family once transformers is imported.

    An import of transformers here would add seconds to the start of the `dcclip` command. The hook waits until none of
    the watched modules is half imported, because one of our modules may be what imports transformers.
    """

    watched = frozenset({"transformers", *(f"{__name__}.{name}" for name in _MODULES)})

    def __init__(self) -> None:
        self.is_searching = False
        self.in_progress: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders give, with a loader that registers afterwards."""
        if name not in self.watched or self.is_searching:
            return None
        self.is_searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.is_searching = False
        if spec is not None and spec.loader is not None:
            self._wrap(name, spec.loader)
        return spec

    def _wrap(self, name: str, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self.in_progress.add(name)
            try:
                execute(module)
            finally:
                self.in_progress.discard(name)
            if not self.in_progress and self in sys.meta_path:
                _register()

        loader.exec_module = exec_module


def _register() -> None:
    """Register the model family with the Auto classes, if torch is installed."""
    if _hook in sys.meta_path:
        sys.meta_path.remove(_hook)
    if importlib.util.find_spec("torch") is None:
        return
    from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

    from .configuration_dcclip import DCCLIPConfig
    from .modeling_dcclip import DCCLIPModel
    from .processing_dcclip import DCCLIPProcessor

    AutoConfig.register(DCCLIPConfig.model_type, DCCLIPConfig, exist_ok=True)
    AutoModel.register(DCCLIPConfig, DCCLIPModel, exist_ok=True)
    AutoModelForZeroShotImageClassification.register(DCCLIPConfig, DCCLIPModel, exist_ok=True)
    AutoProcessor.register(DCCLIPConfig, DCCLIPProcessor, exist_ok=True)
    # a saved folder then carries these files, so it loads where this package is not installed
    DCCLIPConfig.register_for_auto_class()
    DCCLIPModel.register_for_auto_class("AutoModel")
    DCCLIPProcessor.register_for_auto_class("AutoProcessor")


_hook = _RegisterOnImport()
if "transformers" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _hook)  # type: ignore[arg-type]  # a finder needs no more than find_spec

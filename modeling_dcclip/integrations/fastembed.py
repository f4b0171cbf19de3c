"""Register a model folder with fastembed, and so with Qdrant: one name for texts, one for images.

    from modeling_dcclip.integrations.fastembed import register

    text, image = register("FOLDER")
    fastembed.TextEmbedding(text, specific_model_path="FOLDER")
    fastembed.ImageEmbedding(image, specific_model_path="FOLDER")

The folder needs `onnx/` (training/export.py). Embeddings are L2-normalised.
"""

import json
from pathlib import Path
from typing import Any

from fastembed import TextEmbedding
from fastembed.common.model_description import DenseModelDescription, ModelSource, PoolingType
from fastembed.image.onnx_embedding import OnnxImageEmbedding, supported_onnx_models


def register(folder: str | Path, variant: str = "", name: str | None = None) -> tuple[str, str]:
    """Add both towers to the models that fastembed knows. Repeated calls change nothing.

    Args:
        folder: Exported model folder. fastembed also takes it as `specific_model_path`.
        variant: Ending of the graphs: empty for fp32, `_fp16` or `_quantized`.
        name: Name of the model. Default: the folder's name.

    Returns:
        Names of the text model and of the image model, such as `dcclip/FOLDER-text`.

    Raises:
        ValueError: The folder has no such graph, or a different folder was registered under this name.
    """
    folder = Path(folder).resolve()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = []
    for kind, tower, known in (
        ("text", "text", TextEmbedding._list_supported_models()),
        ("image", "vision", OnnxImageEmbedding._list_supported_models()),
    ):
        file = f"onnx/{tower}_model{variant}.onnx"
        if not (folder / file).exists():
            found = ", ".join(sorted(path.stem for path in folder.glob("onnx/*.onnx"))) or "none"
            raise ValueError(
                f"folder: {str(folder)!r} has no {file}, but {found}. Pass a different variant, or export the model: "
                "python training/export.py FOLDER --output_dir FOLDER."
            )
        model = f"dcclip/{name or folder.name}-{kind}{variant}"
        names.append(model)
        dim = config.get("truncate_dim") or config["projection_dim"]
        description = f"DC-CLIP {kind} embeddings in Chinese and English, {dim} dimensions, from {folder}"
        if same := [entry.description for entry in known if entry.model.lower() == model.lower()]:
            if same[0] != description:
                raise ValueError(
                    f"name: fastembed has a different model named {model!r}: {same[0]!r}. Pass a new name: "
                    "register(FOLDER, name=NAME)."
                )
            continue
        fields: dict[str, Any] = {
            "model": model,
            "dim": dim,
            "sources": ModelSource(hf=model),
            "model_file": file,
            "license": config.get("teacher_license") or "",
            "description": description,
        }
        size = (folder / file).stat().st_size / 1e9
        if kind == "text":
            TextEmbedding.add_custom_model(**fields, pooling=PoolingType.DISABLED, normalization=True, size_in_gb=size)
        else:  # fastembed has no such method for images; this list is where its own models are
            supported_onnx_models.append(DenseModelDescription(**fields, size_in_GB=size))
    return names[0], names[1]

"""The table of tools in model_cards/README.md: its code runs, and its versions are those that are tested."""

import importlib
import re
import shutil

import pytest

from tests.tiny import ROOT
from tests.tools.__main__ import TOOLS

TABLE = re.compile(r"^\| (?P<tool>[^|]+) \| (?P<version>[^|]+) \| `(?P<code>[^`]+)`[^|]*\| [^|]*\|$", re.M)
# names that the code of a row uses, by the module that has them
NAMES = {
    "transformers": {"transformers": ["AutoModel"]},
    "sentence-transformers": {"sentence_transformers": ["SentenceTransformer"]},
    "Haystack": {
        "haystack_integrations.components.embedders.sentence_transformers": [
            "SentenceTransformersDocumentImageEmbedder"
        ]
    },
    "LlamaIndex": {"llama_index.embeddings.huggingface": ["HuggingFaceEmbedding"]},
    "mteb": {"modeling_dcclip.integrations.mteb": ["model_meta"]},
    "Daft": {"daft.functions": ["embed_image"]},
    "fastembed, Qdrant": {"modeling_dcclip.integrations.fastembed": ["register"]},
    "open_clip": {"open_clip": ["create_model_and_transforms"], "modeling_dcclip.integrations.open_clip": ["convert"]},
    "CLIP_benchmark": {"clip_benchmark.models": ["load_clip"], "modeling_dcclip.integrations.open_clip": ["convert"]},
    "LanceDB": {"lancedb.embeddings": ["get_registry"], "modeling_dcclip.integrations.open_clip": ["convert"]},
}
VERSIONS = {
    "sentence-transformers": ["sentence-transformers"],
    "Haystack": ["haystack-ai"],
    "LlamaIndex": ["llama-index-core"],
    "mteb": ["mteb"],
    "Daft": ["daft"],
    "fastembed, Qdrant": ["fastembed", "qdrant-client"],
    "LanceDB": ["lancedb"],
}
ROWS = {row["tool"]: row for row in TABLE.finditer((ROOT / "model_cards/README.md").read_text(encoding="utf-8"))}


@pytest.mark.tools
@pytest.mark.parametrize("tool", NAMES)
def test_the_code_of_a_row_runs(tool, model_folder, tmp_path):
    pytest.importorskip("mteb", reason="python -m tests.tools")
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    scope = {"FOLDER": str(folder)}
    for module, names in NAMES[tool].items():
        scope |= {name: getattr(importlib.import_module(module), name) for name in names}
    if tool == "Daft":
        import daft

        scope["column"] = daft.col("image")
    result = eval(ROWS[tool]["code"], scope)
    assert result is not None
    if tool == "Haystack":
        result.warm_up()  # loads the model


@pytest.mark.parametrize("tool", VERSIONS)
def test_the_versions_of_the_table_are_tested(tool):
    assert ROWS[tool]["version"] == ", ".join(TOOLS[name] for name in VERSIONS[tool])

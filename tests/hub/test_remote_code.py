"""Model folders in processes without this package and without a network."""

import json
import re
import sys

import pytest

from modeling_dcclip import DCCLIPTextModelWithProjection
from tests.tiny import ROOT, VIT, make_config

pytestmark = pytest.mark.slow

PHOTO_MODEL = ROOT / "model_cards" / "dcclip-tiny-photo"
ISOLATED = """
import importlib.util, json, sys
from pathlib import Path
root, folder, tower = sys.argv[1:4]
# remove the finder of an editable install, which would find the package
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(root)]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in f"{getattr(f, '__module__', '')}{f!r}".lower()]
assert importlib.util.find_spec("modeling_dcclip") is None, "the package is still on the path"
assert importlib.util.find_spec("training") is None, "the package is still on the path"

# torch is imported only after the runtime has answered
image, labels = f"{folder}/example.jpg", ["狗", "cat", "rabbit"]
sys.path.insert(0, folder)
from runtime_dcclip import Runtime
found = {"runtime": Runtime().zero_shot(image, labels)[0][0]}
assert not {"torch", "transformers"} & set(sys.modules)
sys.path.remove(folder)
for name in [name for name in sys.modules if name.endswith("_dcclip")]:
    del sys.modules[name]

# as Inference Endpoints load it
sys.path.insert(0, folder)
spec = importlib.util.spec_from_file_location("handler.EndpointHandler", f"{folder}/handler.py")
handler = importlib.util.module_from_spec(spec)
sys.modules["handler.EndpointHandler"] = handler
spec.loader.exec_module(handler)
request = {"inputs": Path(image).read_bytes(), "parameters": {"candidate_labels": labels}}
found["handler"] = handler.EndpointHandler(folder)(request)[0]["label"]

from transformers import AutoModel, AutoModelForZeroShotImageClassification
print("TOWER", type(AutoModel.from_pretrained(tower, trust_remote_code=True)).__name__)
try:
    AutoModelForZeroShotImageClassification.from_pretrained(tower, trust_remote_code=True)
except ValueError as error:
    assert str(error).startswith("Unrecognized configuration"), error
else:
    raise AssertionError("a tower is no whole model")

try:
    from sentence_transformers import SentenceTransformer
except ImportError:
    pass
else:
    from PIL import Image
    encoder = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    scores = encoder.similarity(encoder.encode([Image.open(image)]), encoder.encode(labels))[0]
    found["sentence-transformers"] = labels[int(scores.argmax())]
print("FOUND " + json.dumps(found))
"""


def test_the_shipped_folder_works_alone_in_every_loader_and_a_tower_as_a_tower(
    run_python, tmp_path
):
    tower = DCCLIPTextModelWithProjection(make_config(VIT))
    tower.save_pretrained(tmp_path / "tower")
    environment = {
        "HF_HOME": f"{tmp_path}/hf",
        "HF_MODULES_CACHE": f"{tmp_path}/modules",
        "PYTHONPATH": "",
    }
    folders = map(str, (ROOT, PHOTO_MODEL, tmp_path / "tower"))
    run = run_python("-I", "-c", ISOLATED, *folders, **environment)
    assert "TOWER DCCLIPTextModelWithProjection\n" in run.stdout
    found = json.loads(run.stdout.partition("FOUND ")[2])
    assert set(found.values()) == {"cat"} and {"runtime", "handler"} <= set(found)


def test_the_model_imports_torch_and_transformers_alone():
    """timm, pandas and the like would make loading slow, and are not needed by every model."""
    for name in ("configuration", "modeling", "processing", "image"):
        code = (ROOT / "modeling_dcclip" / f"{name}_dcclip.py").read_text(encoding="utf-8")
        packages = {*re.findall(r"^(?:from|import) (\w+)", code, re.M)} - sys.stdlib_module_names
        assert packages <= {"torch", "transformers", "PIL", "numpy", "huggingface_hub"}, name

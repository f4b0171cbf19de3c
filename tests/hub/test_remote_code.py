"""Model folders in processes without this package and without a network."""

import ast
import json
import sys

import pytest
import torch

from modeling_dcclip import DCCLIPModel
from tests.tiny import CUT_EFFICIENTNET, ROOT, make_model

pytestmark = pytest.mark.slow

PHOTO_MODEL = ROOT / "model_cards" / "dcclip-tiny-photo"
LABELS = {"en": ["red apple", "green frog", "keycap"], "zh": ["红苹果", "青蛙", "按键"]}
ISOLATED = """
import importlib.util, json, sys
from pathlib import Path
root, folder = sys.argv[1:3]
# remove the finder of an editable install, which would find the package
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(root)]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in f"{getattr(f, '__module__', '')}{f!r}".lower()]
assert importlib.util.find_spec("modeling_dcclip") is None, "the package is still on the path"
assert importlib.util.find_spec("training") is None, "the package is still on the path"
"""
TRANSFORMERS = """
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

torch.set_num_threads(1)
again, labels = sys.argv[3], json.loads(sys.argv[5])
image, found = Image.open(sys.argv[4]).convert("RGB"), {}


def load(folder):
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(images=image, text=labels["en"] + labels["zh"], return_tensors="pt")
    with torch.no_grad():
        return model, processor, model(**inputs).logits_per_image.tolist()


config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model, processor, found["logits"] = load(folder)
found["classes"] = [type(thing).__module__ for thing in (config, model, processor)]
model.save_pretrained(again)
processor.save_pretrained(again)
_, _, found["logits_again"] = load(again)
classify = pipeline("zero-shot-image-classification", model=again, trust_remote_code=True)
for language, candidates in labels.items():
    found[f"pipeline_{language}"] = classify(image, candidate_labels=candidates, hypothesis_template="{}")
found["pipeline_template"] = classify(image, candidate_labels=labels["en"])
print("FOUND " + json.dumps(found))
"""
# torch is imported only after the runtime has answered
OTHERS = """
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


def run_isolated(run_python, home, code: str, *arguments: object) -> dict:
    environment = {"HF_HOME": str(home / "hf"), "HF_MODULES_CACHE": str(home / "modules"), "PYTHONPATH": ""}
    run = run_python("-I", "-c", ISOLATED + code, str(ROOT), *map(str, arguments), **environment)
    return json.loads(run.stdout.partition("FOUND ")[2])


@pytest.fixture(scope="module")
def saved(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("hub") / "model"
    make_model(CUT_EFFICIENTNET).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def found(saved, images, run_python) -> dict:
    home = saved.parent
    images[0].save(home / "image.png")
    arguments = (saved, home / "again", home / "image.png", json.dumps(LABELS))
    return run_isolated(run_python, home, TRANSFORMERS, *arguments)


@pytest.fixture(scope="module")
def expected(saved, processor, images) -> torch.Tensor:
    """Logits in this process, with the package."""
    inputs = processor(images=images[0], text=LABELS["en"] + LABELS["zh"], return_tensors="pt")
    with torch.no_grad():
        return DCCLIPModel.from_pretrained(saved).eval()(**inputs).logits_per_image


def test_remote_code_gives_the_logits_of_the_package(found, expected):
    assert all(module.startswith("transformers_modules.") for module in found["classes"])
    for name in ("logits", "logits_again"):
        torch.testing.assert_close(torch.tensor(found[name]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("language", LABELS)
def test_pipeline_scores_labels_in_each_language(found, expected, language):
    columns = slice(0, 3) if language == "en" else slice(3, 6)
    found_scores = {entry["label"]: entry["score"] for entry in found[f"pipeline_{language}"]}
    scores = expected[0, columns].softmax(0).tolist()
    assert found_scores == pytest.approx(dict(zip(LABELS[language], scores, strict=True)), abs=1e-5)
    assert sum(entry["score"] for entry in found["pipeline_template"]) == pytest.approx(1, abs=1e-5)


def test_a_saved_folder_has_the_code_of_the_package(saved, found):
    names = {f"{name}_dcclip.py" for name in ("configuration", "modeling", "processing", "image")}
    for folder in (saved, saved.parent / "again"):
        assert {path.name for path in folder.glob("*.py")} == names
        for name in names:
            assert (folder / name).read_bytes() == (ROOT / "modeling_dcclip" / name).read_bytes()
    auto_map = json.loads((saved.parent / "again/config.json").read_text(encoding="utf-8"))["auto_map"]
    assert {"AutoConfig", "AutoModel", "AutoModelForZeroShotImageClassification"} <= set(auto_map)


def test_the_shipped_folder_works_alone_in_every_loader(run_python, tmp_path):
    found = run_isolated(run_python, tmp_path, OTHERS, PHOTO_MODEL)
    assert set(found.values()) == {"cat"} and {"runtime", "handler"} <= set(found)


def test_the_model_imports_torch_and_transformers_alone():
    """timm, pandas and the like would make loading slow, and are not needed by every model."""
    for name in ("configuration", "modeling", "processing", "image"):
        tree = ast.parse((ROOT / "modeling_dcclip" / f"{name}_dcclip.py").read_text(encoding="utf-8"))
        names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level]
        packages = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
        assert packages <= {"torch", "transformers", "PIL", "numpy", "huggingface_hub"}, name

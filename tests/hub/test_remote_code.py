"""A saved folder in a process without this package and without a network."""

import json

import pytest
import torch

from modeling_dcclip import DCCLIPModel
from tests.tiny import CUT_EFFICIENTNET, ROOT, make_model

pytestmark = pytest.mark.slow

LABELS = {"en": ["red apple", "green frog", "keycap"], "zh": ["红苹果", "青蛙", "按键"]}
ISOLATED_LOAD = """
import importlib.util, json, sys
from pathlib import Path
root, folder, again, image = sys.argv[1:5]
labels = json.loads(sys.argv[5])
# remove the finder of an editable install, which would find the package
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(root)]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in f"{getattr(f, '__module__', '')}{f!r}".lower()]
assert importlib.util.find_spec("modeling_dcclip") is None, "the package is still on the path"
assert importlib.util.find_spec("training") is None, "the package is still on the path"

import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

torch.set_num_threads(1)
found = {}
image = Image.open(image).convert("RGB")
texts = labels["en"] + labels["zh"]


def load(folder):
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(images=image, text=texts, return_tensors="pt")
    with torch.no_grad():
        return model, processor, model(**inputs).logits_per_image.tolist()


config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
found["model_type"] = config.model_type
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
    (home / "isolated_load.py").write_text(ISOLATED_LOAD, encoding="utf-8")
    arguments = [str(ROOT), str(saved), str(home / "again"), str(home / "image.png"), json.dumps(LABELS)]
    environment = {"HF_HOME": str(home / "hf"), "HF_MODULES_CACHE": str(home / "modules"), "PYTHONPATH": ""}
    output = run_python("-I", str(home / "isolated_load.py"), *arguments, **environment).stdout
    return json.loads(output.partition("FOUND ")[2])


@pytest.fixture(scope="module")
def expected(saved, processor, images) -> torch.Tensor:
    """Logits in this process, with the package."""
    inputs = processor(images=images[0], text=LABELS["en"] + LABELS["zh"], return_tensors="pt")
    with torch.no_grad():
        return DCCLIPModel.from_pretrained(saved).eval()(**inputs).logits_per_image


def test_config_model_and_processor_come_from_the_folder(found):
    assert found["model_type"] == "dcclip"
    assert all(module.startswith("transformers_modules.") for module in found["classes"])


def test_remote_code_gives_the_logits_of_the_package(found, expected):
    torch.testing.assert_close(torch.tensor(found["logits"]), expected, rtol=0, atol=1e-6)


def test_remote_code_saves_a_folder_that_loads_again(found, expected):
    torch.testing.assert_close(torch.tensor(found["logits_again"]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("language", LABELS)
def test_pipeline_scores_labels_in_each_language(found, expected, language):
    columns = slice(0, 3) if language == "en" else slice(3, 6)
    found_scores = {entry["label"]: entry["score"] for entry in found[f"pipeline_{language}"]}
    scores = expected[0, columns].softmax(0).tolist()
    assert found_scores == pytest.approx(dict(zip(LABELS[language], scores, strict=True)), abs=1e-5)


def test_pipeline_works_with_its_default_template(found):
    assert sum(entry["score"] for entry in found["pipeline_template"]) == pytest.approx(1, abs=1e-5)


def test_a_folder_saved_by_remote_code_contains_the_code(found, saved):
    names = {path.name for path in (saved.parent / "again").iterdir()}
    assert {"configuration_dcclip.py", "modeling_dcclip.py", "processing_dcclip.py"} <= names
    auto_map = json.loads((saved.parent / "again/config.json").read_text(encoding="utf-8"))["auto_map"]
    assert {"AutoConfig", "AutoModel", "AutoModelForZeroShotImageClassification"} <= set(auto_map)


def test_saved_code_equals_the_package(saved):
    for path in saved.glob("*.py"):
        assert path.read_bytes() == (ROOT / "modeling_dcclip" / path.name).read_bytes()
    assert {path.stem for path in saved.glob("*.py")} == {
        f"{name}_dcclip" for name in ("configuration", "modeling", "processing", "image")
    }


def test_the_package_imports_nothing_of_training():
    for path in (ROOT / "modeling_dcclip").glob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.lstrip().startswith(("import training", "from training"))]


IMPORTS = """
import sys
from transformers import CLIPModel, CLIPProcessor
known = set(sys.modules)
from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
print(*sorted(set(sys.modules) - known))
"""


def test_importing_the_model_loads_nothing_but_our_files_on_top_of_clip(run_python):
    loaded = run_python("-c", IMPORTS).stdout.split()
    assert "modeling_dcclip.modeling_dcclip" in loaded
    assert [name for name in loaded if name.partition(".")[0] != "modeling_dcclip"] == []

"""Importing the package: no torch, no transformers, and registration with the Auto classes in any import order."""

import json

import pytest

import modeling_dcclip
from tests.tiny import CUT_EFFICIENTNET, make_model

pytestmark = pytest.mark.slow

# imports the libraries that every order needs, then tries each order in a fork of that process
FORKS = """
import json, os, sys, traceback
import scipy.optimize, timm, tokenizers, torch, torch._dynamo, torchvision
assert not {"transformers", "modeling_dcclip"} & set(sys.modules)
failed = []
for name, code in json.loads(sys.argv[2]).items():
    if (child := os.fork()) == 0:
        try:
            exec(code, {})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
print(json.dumps(failed))
"""
CHECK = """
import sys
{statements}
from transformers import AutoConfig, AutoModel, AutoProcessor
model = AutoModel.from_pretrained(sys.argv[1])
import modeling_dcclip
assert type(model) is modeling_dcclip.DCCLIPModel
assert type(AutoProcessor.from_pretrained(sys.argv[1])) is modeling_dcclip.DCCLIPProcessor
assert type(AutoConfig.from_pretrained(sys.argv[1])) is modeling_dcclip.DCCLIPConfig
assert modeling_dcclip.DCCLIPModel._auto_class == "AutoModel"
assert not any(type(finder).__module__ == "modeling_dcclip" for finder in sys.meta_path)
"""
ORDERS = {
    # a search for transformers must not use up the hook
    "package first": "import modeling_dcclip, importlib.util; importlib.util.find_spec('transformers')",
    "transformers first": "import transformers, modeling_dcclip",
    "class": "from modeling_dcclip import DCCLIPModel",
    "submodule": "from modeling_dcclip.modeling_dcclip import DCCLIPModel",
}


@pytest.fixture(scope="module")
def folder(processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("import")
    make_model(CUT_EFFICIENTNET).save_pretrained(folder)
    processor.save_pretrained(folder)
    for code in folder.glob("*.py"):  # so that only registered classes can load it
        code.unlink()
    return folder


def test_the_auto_classes_know_the_family_in_any_import_order(run_python, folder):
    codes = {name: CHECK.format(statements=statements) for name, statements in ORDERS.items()}
    run = run_python("-c", FORKS, str(folder), json.dumps(codes))
    assert json.loads(run.stdout.splitlines()[-1]) == [], run.stderr


def test_the_import_alone_loads_neither_torch_nor_transformers(run_python):
    code = "import sys, modeling_dcclip, modeling_dcclip.command; print(*{'torch', 'transformers'} & set(sys.modules))"
    assert run_python("-c", code).stdout.strip() == ""


def test_transformers_without_torch_still_imports(run_python):
    code = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find_spec(name, *rest)
import modeling_dcclip, transformers
assert "modeling_dcclip.modeling_dcclip" not in sys.modules
"""
    run_python("-c", code)


def test_all_public_classes_are_listed_and_no_others():
    for name in modeling_dcclip.__all__:
        assert getattr(modeling_dcclip, name).__name__ == name
        assert name in dir(modeling_dcclip)
    with pytest.raises(AttributeError, match="no attribute 'DCCLIPNothing'"):
        modeling_dcclip.DCCLIPNothing  # noqa: B018

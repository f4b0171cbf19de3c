"""Importing the package: no torch, no transformers, and registration with the Auto classes by the first class."""

import pytest

from tests.tiny import VIT, make_model

pytestmark = pytest.mark.slow

REGISTERED = """
import sys
import modeling_dcclip, modeling_dcclip.search.command
assert not {"torch", "transformers"} & set(sys.modules)
from modeling_dcclip import DCCLIPConfig
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor
for auto in (AutoModel, AutoModelForZeroShotImageClassification):
    assert type(auto.from_pretrained(sys.argv[1])) is modeling_dcclip.DCCLIPModel
assert type(AutoProcessor.from_pretrained(sys.argv[1])) is modeling_dcclip.DCCLIPProcessor
assert type(AutoConfig.from_pretrained(sys.argv[1])) is DCCLIPConfig
assert modeling_dcclip.DCCLIPModel._auto_class == "AutoModel"
"""


def test_the_first_class_registers_the_family(run_python, processor, tmp_path):
    make_model(VIT).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for code in tmp_path.glob("*.py"):  # so that only registered classes can load it
        code.unlink()
    run_python("-c", REGISTERED, str(tmp_path))

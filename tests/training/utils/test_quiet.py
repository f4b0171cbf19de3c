import logging
import os
import warnings

import pytest

from training.utils.quiet import EXECUTORCH_LINES, hide_torchao_messages, quiet_export, quiet_native


def test_known_torchao_messages_are_hidden_and_others_shown():
    hide_torchao_messages()
    for name, hidden in (
        ("torchao", "Failed to load /site-packages/torchao/_C_mxfp8.so: no such library"),
        ("torch.utils._pytree", "<enum 'E'> is. Calling register_constant() on Enum subclasses is deprecated"),
    ):
        # the filters alone: other tests may have configured the levels and handlers of these loggers
        is_shown = logging.getLogger(name).filter
        assert not is_shown(logging.makeLogRecord({"name": name, "msg": hidden}))
        assert is_shown(logging.makeLogRecord({"name": name, "msg": "something else"}))


@pytest.mark.slow
def test_commands_hide_the_bars_of_libraries_and_keep_those_of_downloads(run_python, tmp_path):
    code = """
import sys
from huggingface_hub.utils import are_progress_bars_disabled
from transformers import BertConfig, BertModel
from training.utils.quiet import hide_library_bars
hide_library_bars()
config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
BertModel(config).save_pretrained(sys.argv[1])
BertModel.from_pretrained(sys.argv[1])
print(are_progress_bars_disabled())
"""
    result = run_python("-c", code, str(tmp_path))
    assert result.stdout.strip() == "False" and result.stderr == ""


def test_exports_hide_known_warnings_only(caplog):
    with pytest.warns(UserWarning, match="something else"), quiet_export():
        warnings.warn("# The axis name: b will not be used, since it shares the same shape constraints", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        logging.warning("Please consider to run pre-processing before quantization. Refer to example")
        logging.warning("an unknown warning")
    assert caplog.messages == ["an unknown warning"]


def test_native_lines_are_dropped_by_pattern(capfd):
    with quiet_native(EXECUTORCH_LINES):
        os.write(2, b"[cpuinfo_utils.cpp:71] Reading file\nan error\n[threadpool.cpp:66] Resetting threadpool\n")
    assert capfd.readouterr().err == "an error\n"

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

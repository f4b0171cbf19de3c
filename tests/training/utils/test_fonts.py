import logging
import warnings

import pytest

from training.utils import fonts
from training.utils.fonts import font_families, label_fonts


def draw(label: str, path) -> bytes:
    from matplotlib.figure import Figure

    with label_fonts([label]):
        figure = Figure(figsize=(1, 1))
        figure.subplots().set_title(label)
        figure.savefig(path)
    return path.read_bytes()


def test_chinese_labels_have_a_font(tmp_path):
    if len(font_families()) == 1:
        pytest.skip("no font here has Chinese characters")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw("猫", tmp_path / "a.png") != draw("狗", tmp_path / "b.png")  # boxes would be equal


def test_without_a_font_one_line_says_how_to_get_one(tmp_path, monkeypatch, caplog, recwarn):
    monkeypatch.setattr(fonts, "find_spec", lambda name: None)
    monkeypatch.setattr(fonts, "INSTALLED", ())
    with caplog.at_level(logging.WARNING):
        draw("cat", tmp_path / "a.png")
        assert not caplog.records
        draw("猫和狗", tmp_path / "b.png")
    assert len(caplog.records) == 1 and "pip install cvttf-notosanscjk-regular" in caplog.text and not recwarn.list

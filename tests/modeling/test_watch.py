"""`dcclip index --watch`: updates after changes, and how it ends."""

import sys

import pytest

from modeling_dcclip import command
from modeling_dcclip.search import commands
from modeling_dcclip.search import watch as module
from modeling_dcclip.search.settings import BusyError

pytest.importorskip("watchfiles")


def test_an_index_follows_its_folders(index, photos, paint, monkeypatch):
    monkeypatch.setattr(module, "QUIET_MS", 50)
    monkeypatch.setattr(module, "CHECK_MS", 100)
    index.add(photos)
    paint(photos / "before.jpg", "red", width=30)  # before the watch begins
    reports = module.watch(index)
    assert next(reports).embedded == 1
    paint(photos / "a" / "new.jpg", "red", width=40)
    (photos / "white.png").unlink()
    report = next(reports)
    assert (report.embedded, report.removed, len(index)) == (1, 1, 6)
    add, is_busy = index.add, iter([True, False])

    def add_beside_another_process():
        if next(is_busy):
            raise BusyError
        return add()

    monkeypatch.setattr(index, "add", add_beside_another_process)
    paint(photos / "during.jpg", "red", width=50)
    assert next(reports).embedded == 1


def test_ctrl_c_ends_the_command(index, photos, paint, monkeypatch, capsys):
    def updates(index):
        yield index.add()  # nothing has changed, so nothing is printed
        paint(photos / "new.jpg", "red", width=40)
        yield index.add()
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "watch", updates)
    command.main(["index", str(photos), "--watch", "--index", str(index.folder)])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("5 files")
    assert second.startswith("6 files in the index: 1 embedded")


def test_a_missing_package_is_reported_before_the_work(
    tmp_path, color_model, photos, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    folders = ["--index", str(tmp_path / "index"), "--model", str(color_model)]
    with pytest.raises(SystemExit):
        command.main(["index", str(photos), "--watch", *folders])
    assert "watchfiles" in capsys.readouterr().err and not (tmp_path / "index").exists()

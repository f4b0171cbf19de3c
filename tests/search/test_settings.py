"""What a user said about an index outlives its data, and damaged data are computed again."""

import errno
import json
import os
import shutil
import sqlite3
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_dcclip.search.index import Index
from modeling_dcclip.search.index.catalog import DamagedIndexError
from modeling_dcclip.search.index.settings import (
    BACKUP,
    SETTINGS,
    read_settings,
    write_lock,
    write_settings,
)
from tests.search.conftest import names


@pytest.fixture
def folder(tmp_path, color_model, photos, paint):
    """Folder of an index of two folders, one of which leaves out what is private."""
    paint(photos / "private" / "secret.jpg", "red", width=70)
    paint(tmp_path / "more" / "more.jpg", "blue", width=80)
    with Index.open(tmp_path / "index", color_model, create=True) as index:
        index.add(photos, exclude=["private"])
        index.add(tmp_path / "more")
    return tmp_path / "index"


def found(folder):
    with Index.open(folder) as index:
        return sorted(names(index.search("red")))


def cut_in_half(path):
    os.truncate(path, path.stat().st_size // 2)


def change(path, statement):
    with sqlite3.connect(path) as catalog:
        catalog.execute(statement)


def copy_from_another_index(path):
    """A sound catalog, of the same photographs."""
    with (
        Index.open(path.parent) as index,
        Index.open(path.parents[1] / "other", index.runtime, create=True) as other,
    ):
        other.add(*index.folders)
        shutil.copyfile(other.folder / path.name, path)


LOSE_THE_VECTORS = "DELETE FROM segments"
VERSION = "PRAGMA application_id = 0"  # as of an earlier version
DAMAGES = [Path.unlink, cut_in_half, copy_from_another_index]
DAMAGES += [
    partial(change, statement=statement)
    for statement in (
        LOSE_THE_VECTORS,
        VERSION,
        "UPDATE segments SET vectors = zeroblob(length(vectors))",
        "UPDATE files SET row = 3 WHERE row = 1",
    )
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_are_refused_and_computed_again_with_what_the_user_said(
    folder, photos, damage
):
    before = found(folder)
    damage(folder / "catalog-1.sqlite")
    with pytest.raises(DamagedIndexError, match="Run dcclip index"):
        found(folder)
    with Index.open(folder, create=True) as index:
        report = index.add(photos)
    assert report.embedded == 6
    assert report.lost
    assert found(folder) == before


def test_damaged_data_without_folders_are_not_dropped(folder):
    with Index.open(folder) as index:
        index._change(replace(index.settings, folders={}))
    change(folder / "catalog-1.sqlite", LOSE_THE_VECTORS)
    with pytest.raises(DamagedIndexError):
        Index.open(folder, create=True)


def edit(path):
    path.write_text(path.read_text().replace("photos", "others"))


def make_later(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))


@pytest.mark.parametrize("damage", [cut_in_half, Path.unlink, edit, make_later])
def test_settings_without_a_sound_file_are_not_guessed(folder, color_model, damage):
    damage(folder / SETTINGS)
    assert len(found(folder)) == 6  # by the copy
    damage(folder / BACKUP)
    with pytest.raises(ValueError, match=r"damaged settings.*Restore settings\.json"):
        Index.open(folder, color_model, create=True)


@settings(deadline=None, max_examples=30)
@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_other_content_is_damaged(content):
    content = content if isinstance(content, bytes) else content.encode()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, SETTINGS).write_bytes(content)
        with pytest.raises(ValueError, match="damaged settings"):
            read_settings(Path(folder))


def test_an_index_that_cannot_be_read_is_not_taken_for_a_new_one(folder, color_model, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        Index.open(folder, color_model, create=True)


def test_what_is_committed_is_on_the_disk(folder, monkeypatch):
    """A power cut loses no settings that were renamed, and no vectors that a catalog has."""
    written = []
    monkeypatch.setattr(os, "fsync", lambda number: written.append(os.fstat(number).st_ino))
    (folder / f".{SETTINGS}.new").write_text("half")  # left by a process that was killed
    write_settings(folder, read_settings(folder))
    assert not [*folder.glob(".settings*")]
    assert written == [(folder / name).stat().st_ino for name in (SETTINGS, BACKUP)]
    with Index.open(folder) as index:
        assert index.catalog.value("PRAGMA synchronous") == 2  # FULL


def test_a_creation_that_was_killed_is_repeated(tmp_path, color_model, photos):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / ".lock").touch()
    (tmp_path / "index" / "catalog-1.sqlite").touch()
    with Index.open(tmp_path / "index", color_model, create=True) as index:
        assert index.add(photos).embedded == 5


@pytest.mark.parametrize("name", ["catalog-1.sqlite", "catalog-1.sqlite-journal"])
def test_nothing_is_written_through_a_link(folder, tmp_path, name):
    target = shutil.copyfile(folder / "catalog-1.sqlite", tmp_path / "mine.sqlite")
    before = target.read_bytes()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    with pytest.raises(DamagedIndexError, match="it is a link"):
        found(folder)
    with Index.open(folder, create=True) as index:
        assert index.add().embedded == 6
    assert target.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this system")
@pytest.mark.parametrize("name", [".lock", SETTINGS])
def test_a_pipe_in_place_of_a_file_that_can_be_replaced_never_blocks(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with write_lock(folder):
        assert len(found(folder)) == 6


def test_an_index_that_was_replaced_is_opened_anew(folder, tmp_path, color_model, paint):
    paint(tmp_path / "late" / "late.jpg", "yellow")
    with Index.open(tmp_path / "new index", color_model, create=True) as other:
        other.add(tmp_path / "late")
    with Index.open(folder) as index:
        assert len(index.search("yellow")) == 6
        shutil.rmtree(folder)
        (tmp_path / "new index").rename(folder)
        assert names(index.search("yellow")) == ["late.jpg"]

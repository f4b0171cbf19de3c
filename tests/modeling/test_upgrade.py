"""An index that is embedded again with a new model: searchable throughout, resumable, and never half changed."""

import shutil
from pathlib import Path

import pytest

from modeling_dcclip import command
from modeling_dcclip.search import indexing
from modeling_dcclip.search.index import Index
from modeling_dcclip.search.upgrade import upgrade_index
from tests.modeling.color_model import save_color_model


@pytest.fixture(scope="module")
def new_model(tmp_path_factory) -> Path:
    """A model of another embedding space."""
    return save_color_model(tmp_path_factory.mktemp("new") / "model", turn=3)


@pytest.fixture
def index(tmp_path, color_model, photos):
    with Index.open(tmp_path / "index", color_model, create=True) as index:
        index.add(photos)
    with Index.open(tmp_path / "index") as index:
        yield index


def first(index: Index, text: str) -> str:
    return Path(index.search(text, top=1)[0].path).name


def catalogs(index: Index) -> list[str]:
    return sorted(path.name for path in index.folder.glob("catalog-*.sqlite"))


def test_an_upgraded_index_has_the_new_space(index, new_model):
    shutil.copy(index.folder / "catalog-1.sqlite", index.folder / "catalog-1-copy.sqlite")
    assert upgrade_index(index, new_model).embedded == 5
    assert index.space.model == str(new_model) and first(index, "红") == "red.jpg"
    assert index.add().unchanged == 5
    # the old vectors are gone now, and what the user has copied stays
    assert catalogs(index) == ["catalog-1-copy.sqlite", "catalog-2.sqlite"]


def test_searches_use_the_old_vectors_until_the_new_ones_are_complete(
    index, new_model, photos, paint
):
    found: list[str] = []

    def search(done: int, total: int):
        with Index.open(index.folder) as other:  # as another process
            found.append(first(other, "blue"))
        found.append(first(index, "green"))

    long_running = Index.open(index.folder)
    assert first(long_running, "red") == "red.jpg"
    upgrade_index(index, new_model, progress=search)
    assert found == ["blue.jpg", "green.png"] * 5
    paint(photos / "new.jpg", "red", width=60)
    assert long_running.add().embedded == 1  # with the new model
    assert first(long_running, "yellow") == "yellow.webp" and long_running.space == index.space


def test_an_upgrade_is_refused_while_a_link_leads_to_an_unplugged_disk(
    index, new_model, photos, paint, tmp_path
):
    paint(tmp_path / "disk" / "far.jpg", "blue", width=60)
    (photos / "usb").symlink_to(tmp_path / "disk")
    index.add()
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    with pytest.raises(
        ValueError, match=r"upgrade: .*usb' cannot be read now, and the index has 1 images from it"
    ):
        upgrade_index(index, new_model)
    assert len(index) == 6


def test_an_interrupted_upgrade_continues(index, new_model, monkeypatch, paint, tmp_path):
    monkeypatch.setattr(indexing, "COMMIT_FILES", 1)
    index.add(paint(tmp_path / "before" / "one.jpg", "blue", width=60).parent)

    def stop(done: int, total: int):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upgrade_index(index, new_model, progress=stop)
    assert first(index, "red") == "red.jpg" and index.add().unchanged == 6
    assert catalogs(index) == ["catalog-1.sqlite", "catalog-2.sqlite"]
    index.forget(tmp_path / "before")
    report = upgrade_index(index, new_model)
    assert (report.embedded, report.unchanged, len(index)) == (3, 2, 5)
    assert first(index, "red") == "red.jpg"


def test_an_upgrade_to_another_model_starts_anew(index, new_model, color_model, monkeypatch):
    def stop(done: int, total: int):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upgrade_index(index, new_model, progress=stop)
    assert upgrade_index(index, color_model, truncate_dim=12).embedded == 5
    assert index.settings.data == 3
    index.add()
    assert catalogs(index) == ["catalog-3.sqlite"] and first(index, "white") == "white.png"


def test_the_command_upgrades(index, new_model, capsys):
    folders = ["--upgrade", str(new_model), "--index", str(index.folder)]
    command.main(["index", *folders, "--model_id", "some/model"])
    assert capsys.readouterr().out.startswith("5 files in the index: 5 embedded")
    with Index.open(index.folder) as upgraded:
        assert upgraded.space.model == "some/model" and first(upgraded, "green") == "green.png"

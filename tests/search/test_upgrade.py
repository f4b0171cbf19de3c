"""An index that is embedded again with a new model: searchable throughout, resumable, and never half changed."""

import shutil

import pytest

from modeling_dcclip.search import command
from modeling_dcclip.search.index import Index, indexing
from modeling_dcclip.search.index.upgrade import upgrade_index
from tests.color_model import save_color_model
from tests.search.conftest import names


@pytest.fixture(scope="module")
def new_model(tmp_path_factory):
    """A model of a different embedding space."""
    return save_color_model(tmp_path_factory.mktemp("new") / "model", turn=3)


@pytest.fixture
def index(filled):
    """An index that is opened with the model that its settings name."""
    with Index.open(filled.folder) as index:
        yield index


def first(index, text):
    return names(index.search(text, top=1))[0]


def catalogs(index):
    return sorted(path.name for path in index.folder.glob("catalog-*.sqlite"))


def test_searches_use_the_old_vectors_until_the_new_ones_are_complete(index, new_model):
    shutil.copy(index.folder / "catalog-1.sqlite", index.folder / "catalog-1-copy.sqlite")
    found = []

    def search(done, total):
        with Index.open(index.folder) as other:  # as another process
            found.append(first(other, "blue"))
        found.append(first(index, "green"))

    long_running = Index.open(index.folder)
    assert first(long_running, "red") == "red.jpg"
    assert upgrade_index(index, new_model, progress=search).embedded == 5
    assert found == ["blue.jpg", "green.png"] * 5
    assert index.space.model == str(new_model)
    assert first(index, "红") == "red.jpg"
    assert first(long_running, "yellow") == "yellow.webp"
    assert long_running.space == index.space
    assert long_running.add().unchanged == 5
    # the old vectors are gone now, and what the user has copied stays
    assert catalogs(index) == ["catalog-1-copy.sqlite", "catalog-2.sqlite"]


def stop_after(count):
    def stop(done, total):
        if done == count:
            raise KeyboardInterrupt

    return stop


def test_an_interrupted_upgrade_continues(index, new_model, monkeypatch, paint, tmp_path):
    monkeypatch.setattr(indexing, "COMMIT_FILES", 1)
    index.add(paint(tmp_path / "before" / "one.jpg", "blue", width=60).parent)
    with pytest.raises(KeyboardInterrupt):
        upgrade_index(index, new_model, progress=stop_after(3))
    assert first(index, "red") == "red.jpg"
    assert index.add().unchanged == 6
    assert catalogs(index) == ["catalog-1.sqlite", "catalog-2.sqlite"]
    index.forget(tmp_path / "before")
    report = upgrade_index(index, new_model)
    assert report.embedded == 3
    assert report.unchanged == 2
    assert len(index) == 5
    assert first(index, "red") == "red.jpg"


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_damaged_note_of_an_upgrade_blocks_nothing(index, new_model, content):
    (index.folder / "upgrade.json").write_text(content)
    assert index.add().unchanged == 5
    assert upgrade_index(index, new_model).embedded == 5


def test_an_index_without_folders_is_not_upgraded(index, new_model, photos):
    index.forget(photos)
    with pytest.raises(ValueError, match="has no folders"):
        upgrade_index(index, new_model)


def test_an_upgrade_to_another_model_starts_anew(index, new_model, color_model):
    with pytest.raises(KeyboardInterrupt):
        upgrade_index(index, new_model, progress=stop_after(1))
    assert upgrade_index(index, color_model, truncate_dim=12).embedded == 5
    index.add()
    assert catalogs(index) == ["catalog-3.sqlite"]
    assert first(index, "white") == "white.png"


def test_the_command_upgrades(index, new_model, capsys):
    folders = ["--upgrade", str(new_model), "--index", str(index.folder)]
    command.main(["index", *folders, "--model_id", "some/model"])
    assert capsys.readouterr().out.startswith("5 files in the index: 5 embedded")
    with Index.open(index.folder) as upgraded:
        assert upgraded.space.model == "some/model"
        assert first(upgraded, "green") == "green.png"

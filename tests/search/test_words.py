"""Words of names: what a query finds, how a hit is marked, and that words leave with their file."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from modeling_dcclip.search.index.catalog import Catalog, DamagedIndexError
from modeling_dcclip.search.photos.files import FileState
from modeling_dcclip.search.query.query import LOOKED
from modeling_dcclip.search.query.words import find_in, without_fillers

NAMES = [
    "2019/杭州/西湖.jpg",
    "旅行/IMG_20260515_093012.jpg",
    "Screenshots/NEW_064.png",
    "收据/Café Müller.heic",
    "小明的生日/beaches.jpg",
    "Starbucks Total 45.00.jpg",
    "WiFi密码/abc.webp",
    "北京大学 ＷＩＦＩ.webp",
]


def enter(catalog, paths):
    """Enter files by their paths, each with a content of its own."""
    with catalog.writing():
        digests = [os.fsencode(path)[-16:].rjust(16) for path in paths]
        catalog.allocate([(digest, None, ()) for digest in digests])
        states = [FileState(os.fsencode(path), 1, 1) for path in paths]
        catalog.add_files([*zip(states, digests, strict=True)])


@pytest.fixture
def catalog(tmp_path):
    with closing(Catalog(tmp_path / "catalog-1.sqlite", "", create=True)) as catalog:
        enter(catalog, [f"/photos/{name}" for name in NAMES])
        yield catalog


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("旅行", [1]),
        ("旅行的照片", [1]),
        ("photos of 旅行", [1]),
        ("杭州西湖", [0]),
        ("小明生日", [4]),
        ("收据 cafe", [3]),  # an accent more or less
        ("screenshot", [2]),  # one of Screenshots
        ("IMG_20260515", [1]),
        ("img_2026", [1]),
        ("20260515", [1]),
        ("NEW_064", [2]),
        ("jpg", [0, 1, 4, 5]),
        ("2019 杭州", [0]),
        ("starbuck", [5]),
        ("beach", [4]),
        ("total 45.00", [5]),
        ("北京大学", [7]),
        ("密码", [6]),
        ("wifi password", []),  # each part of one script has to be there
        ("wifi 密码", [6, 7]),
        ("WiFi 旅行", [1, 6, 7]),
        # neither single characters, nor the start of a longer word, nor parts of a word or a run
        ("湖", []),
        ("a", []),
        ("6", []),
        ("star", []),
        ("bucks", []),
        ("北大", []),
        ("杭州东湖", []),
        ("的照片", []),
        ("a photo of the", []),
        ('"', []),
        ("旅" * 1000, []),
        ("旅行 " * 100, []),  # a sentence
    ],
)
def test_a_query_finds_names_with_its_words(catalog, query, found):
    assert sorted(catalog.find_words(query).files) == [number + 1 for number in found]


def test_what_has_the_words_of_both_scripts_comes_first(catalog):
    assert catalog.find_words("wifi 密码").files == {7: 2, 8: 1}


@pytest.mark.parametrize(
    ("query", "text", "words"),
    [
        ("starbuck", "Total at STARBUCKS", ["STARBUCKS"]),
        ("wifi 密码", "WiFi密码：WiFi", ["密码", "WiFi"]),
        ("北京大学", "我在 北京大学 读书", ["北京大学"]),
        ("小明生日", "生日快乐，小明", ["生日", "小明"]),
        ("img_2026", "IMG_20260515.jpg", ["IMG_20260515"]),
        ("cafe", "Café", ["Café"]),
        ("beach", "a bench", []),
    ],
)
def test_the_words_of_a_hit_are_as_they_are_written_there(tmp_path, query, text, words):
    with closing(Catalog(tmp_path / "catalog.sqlite", "", create=True)) as catalog:
        enter(catalog, [f"/{text}"])
        phrases = catalog.find_words(query).phrases
    assert sorted(find_in(phrases, text)) == sorted(words)


def test_the_folders_around_the_home_are_no_words(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    with closing(Catalog(tmp_path / "catalog.sqlite", "", create=True)) as catalog:
        enter(catalog, ["/home/anna/Pictures/dog.jpg", "/media/anna/cat.jpg"])
        assert [*catalog.find_words("anna").files] == [2]


@pytest.mark.parametrize(
    ("query", "rest"),
    [
        ("photos of", ""),
        ("我的照片", ""),
        ("", ""),
        ("photos of dogs", "photos of dogs"),
        ("照相机", "照相机"),
    ],
)
def test_a_query_of_fillers_says_nothing(query, rest):
    assert without_fillers(query) == rest


@pytest.mark.parametrize("leave", ["forget", "change", "fail"])
def test_words_leave_the_disk_with_their_file(catalog, tmp_path, leave):
    enter(catalog, ["/private/geheim.jpg"])
    assert b"geheim" in (tmp_path / "catalog-1.sqlite").read_bytes()
    if leave == "forget":
        catalog.forget_folder(Path("/private"))
    else:
        state = FileState(b"/private/geheim.jpg", 2, 2)
        with catalog.writing():
            if leave == "change":
                catalog.allocate([(b"another", None, ())])
                catalog.add_files([(state, b"another")])
            else:
                catalog.add_failure(state.path, "damaged", state)
                catalog.execute("DELETE FROM failures")  # which name the file
    content = (tmp_path / "catalog-1.sqlite").read_bytes()
    assert (b"geheim" in content) == (leave == "change")
    assert len(catalog.find_words("geheim").files) == (leave == "change")
    assert catalog.find_words("旅行").files


@pytest.mark.skipif(os.name == "nt", reason="no permissions")
def test_only_the_user_may_read_a_catalog(catalog, tmp_path):
    assert (tmp_path / "catalog-1.sqlite").stat().st_mode & 0o777 == 0o600


def test_damaged_words_are_noticed(catalog, tmp_path):
    catalog.close()
    with closing(sqlite3.connect(tmp_path / "catalog-1.sqlite")) as other:
        other.execute("UPDATE words_data SET block = replace(block, 'starbucks', 'starbuckz')")
        other.commit()
    with (
        closing(Catalog(tmp_path / "catalog-1.sqlite", "")) as damaged,
        pytest.raises(DamagedIndexError),
    ):
        damaged.verify()


def test_words_that_most_photographs_have_change_no_order(filled):
    paths = [f"/album/{number}.jpg" for number in range(LOOKED)]
    enter(filled.catalog, [*paths, "/other/album.jpg"])
    found = filled.catalog.find_words("album")
    assert len(found.files) == LOOKED + 1
    assert not filled._ahead(found, filled.catalog.num_rows).any()
    found = filled.catalog.find_words("other album")
    assert filled._ahead(found, filled.catalog.num_rows).sum() == 1

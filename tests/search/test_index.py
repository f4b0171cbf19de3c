"""An index of photographs through Python: search, incremental runs, bad input, two processes, a full disk."""

import errno
import os
import shutil
import threading
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.index import Index, indexing, vectors
from modeling_dcclip.search.index.catalog import Database
from modeling_dcclip.search.index.space import Space
from modeling_dcclip.search.index.upgrade import upgrade_index
from modeling_dcclip.search.photos.files import date_in_name, date_of_folder, search_text
from modeling_dcclip.search.query.query import Filter, QueryWarning, embed_query
from tests.color_model import save_color_model
from tests.search.conftest import names


def test_a_query_is_the_sum_of_its_terms_of_unit_length(color_model, photos):
    runtime = Runtime(color_model)
    total = runtime.encode_images([photos / "white.png"])[0]
    for name, weight in {"red": 1, "green": -0.5}.items():
        # a word or two are searched bare and in a sentence
        mean = runtime.encode_texts([name, f"a photo of a {name}"]).mean(0)
        total += weight * mean / np.linalg.norm(mean)
    found = embed_query(runtime, "red", ["green"], [photos / "white.png"])
    np.testing.assert_allclose(found, total / np.linalg.norm(total), atol=1e-6)


def test_scores_are_cosines_of_a_query_that_is_longer_than_its_terms(filled, color_model):
    runtime = Runtime(color_model)
    query = embed_query(runtime, "red", ["white"])
    # the sum of a text and a photograph is longer than either
    red, *_ = filled.search("red", top=1)
    query += runtime.encode_images([red.path])[0]
    for each in filled.search("red", without=["white"], like=[(red.id, None)]):
        expected = runtime.encode_images([each.path])[0] @ query / np.linalg.norm(query)
        assert each.score == pytest.approx(expected, abs=0.01)


def test_patterns_see_slashes_on_windows(monkeypatch):
    monkeypatch.setattr(os, "sep", "\\")
    assert search_text(b"C:\\Photos\\2021\\A.jpg") == "c:/photos/2021/a.jpg"
    assert Filter(path="Photos\\2021").condition()[1] == ["*photos/2021*"]


@pytest.fixture
def dated(index, photos):
    """An index of a red photograph of 2021-05-09 and five photographs of 2023-11-14."""
    exif = Image.Exif()
    exif[0x0132] = "2021:05:09 10:00:00"
    Image.new("RGB", (24, 16), (255, 0, 0)).save(photos / "dated.jpg", exif=exif)
    for path in photos.rglob("*.*"):
        os.utime(path, (1700000000, 1700000000))
    index.add(photos)
    return index


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({"before": "2021"}, 1),
        ({"before": "2021-05-08"}, 0),
        ({"after": "2021-05"}, 6),
        ({"after": "2023-11-14", "before": "2023"}, 5),
        ({"path": "A/B/"}, 1),
        ({"path": "*.JPG"}, 3),
        ({"path": "[a]"}, 0),
    ],
)
def test_a_filter_limits_the_dates_and_the_path(dated, limits, count):
    assert len(dated.search("red", **limits)) == count


def test_dates_that_end_before_they_start_are_refused():
    with pytest.raises(ValueError, match="later than before"):
        Filter("2024-02", "2024-01-31")


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "IMG_20230512_093012.jpg": "2023-05-12 09:30:12",
        "Screenshot 2023-05-12 at 09.30.12.png": "2023-05-12 09:30:12",
        "IMG-20230512-WA0001.jpg": "2023-05-12 00:00:00",
        "20230231 and 20230301.jpg": "2023-03-01 00:00:00",
        "120230512.jpg": None,
        "照片 2023年5月2日.jpg": "2023-05-02 00:00:00",
        "mmexport1683859812345.jpg": str(datetime.fromtimestamp(1683859812)),
        "export1683859812345.jpg": None,
        "20391105.jpg": None,
    }.items(),
)
def test_names_of_files_have_dates(name, expected):
    assert date_in_name(b"/20200101/" + name.encode()) == expected


@pytest.mark.parametrize(
    ("folder", "date"),
    [
        ("2023/05", "2023-05"),
        ("2019/2023-05-12 Rome", "2023-05"),
        ("20230512", "2023-05"),
        ("2020年12月", "2020-12"),
        ("2019-2021", "2021"),
        ("DCIM/100APPLE", None),
        ("20231234567", None),
    ],
)
def test_a_folder_may_name_a_year_and_a_month(folder, date):
    assert date_of_folder(f"/Photos/{folder}/20180101.jpg".encode()) == date


def test_the_newest_photographs_are_indexed_first(index, photos, monkeypatch):
    for name, year in {"red.jpg": 2021, "white.png": 2019, "green.png": 2022}.items():
        os.utime(photos / name, (datetime(year, 6, 1).timestamp(),) * 2)
    (photos / "a").rename(photos / "2020")  # whatever the time of its files
    (photos / "white.png").rename(photos / "IMG_20230512_093012.png")
    order = []
    read = indexing.read_photo

    def note(path, *others):
        order.append(os.path.basename(path))
        return read(path, *others)

    monkeypatch.setattr(indexing, "read_photo", note)
    monkeypatch.setattr(indexing, "num_cores", lambda: 1)
    index.add(photos)
    assert order == [
        b"IMG_20230512_093012.png",
        b"green.png",
        b"red.jpg",
        b"blue.jpg",
        b"yellow.webp",
    ]


def test_the_newest_are_shown_once_with_their_copies(filled, photos):
    shutil.copy(photos / "white.png", photos / "white too.png")
    for name, seconds in {"white.png": 4e9, "white too.png": 3e9, "red.jpg": 3.5e9}.items():
        os.utime(photos / name, (seconds, seconds))
    filled.add()
    red, white, *others = filled.newest()
    assert names([red, white]) == ["red.jpg", "white too.png"]
    assert len(others) == 3
    assert white.copies == (str(photos / "white.png"),)


def test_links_to_a_photograph_are_no_copies_of_it(index, photos):
    """Whoever deletes a copy must keep the photograph."""
    (photos / "red.jpg").rename(photos / "z.jpg")
    (photos / "a link.jpg").symlink_to(photos / "z.jpg")
    os.link(photos / "white.png", photos / "white too.png")
    index.add(photos)
    assert {hit.copies for hit in index.search("red")} == {()}


def test_content_that_left_the_index_after_it_was_read_is_embedded_again(
    filled, photos, monkeypatch, paint
):
    """White moves to another name, and is overwritten, with a commit in between."""
    monkeypatch.setattr(indexing, "COMMIT_FILES", 1)
    shutil.copy(photos / "white.png", photos / "z.png")
    paint(photos / "white.png", "red", width=31)
    report = filled.add(photos)
    assert report.embedded == 2
    assert names(filled.search("white", top=2)) == [
        "white.png",
        "z.png",
    ]  # its name, and what it shows


def test_broken_files_are_counted_listed_and_not_read_again(index, photos, monkeypatch, paint):
    (photos / "middle.jpg").write_bytes(b"not an image")
    report = index.add(photos)
    assert report.failures == [(str(photos / "middle.jpg"), "not an image, or damaged")]
    assert names(index.search("red", top=1)) == ["red.jpg"]  # vectors stay with their images
    with monkeypatch.context() as patch:
        patch.setattr(indexing, "read_photo", None)
        assert index.add(photos).failures == report.failures
    paint(photos / "middle.jpg", "red", width=50)
    assert not index.add(photos).failures
    assert len(index) == 6


def refuse(*arguments, **options):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_file_that_cannot_be_read_now_stays(filled, photos, monkeypatch):
    os.utime(photos / "red.jpg", (5, 5))
    with monkeypatch.context() as patch:
        patch.setattr("modeling_dcclip.search.photos.photos.open_regular", refuse)
        report = filled.add(photos)
    assert report.failures == [(str(photos / "red.jpg"), "Permission denied")]
    assert names(filled.search("red", top=1)) == ["red.jpg"]
    assert not filled.add(photos).failures  # read again, unlike a damaged file


def test_a_folder_that_cannot_be_entered_keeps_its_photographs(filled, photos, monkeypatch):
    listdir = os.listdir
    monkeypatch.setattr(
        os, "listdir", lambda path: refuse() if path.endswith(b"a") else listdir(path)
    )
    report = filled.add()
    assert report.removed == 0
    assert report.unreadable == [str(photos / "a")]
    assert len(filled) == 5


@pytest.fixture
def unplugged(index, photos, tmp_path, paint):
    """Function that indexes a link to a disk, or to a photograph on it, and removes the disk."""

    def unplug(name, target):
        paint(tmp_path / "disk" / "far.jpg", "blue", width=80)
        (photos / name).symlink_to(tmp_path / target)
        index.add(photos)
        (tmp_path / "disk").rename(tmp_path / "unplugged")

    return unplug


def test_what_is_behind_a_link_that_leads_nowhere_stays(index, photos, unplugged):
    unplugged("link", "disk")
    report = index.add()
    assert report.unreadable == [str(photos / "link")]
    assert report.removed == 0
    message = r"upgrade: .*link' cannot be read now, and the index has 1 images from it"
    with pytest.raises(ValueError, match=message):
        upgrade_index(index, index.runtime, truncate_dim=12)
    (photos / "link").unlink()
    assert index.add().removed == 1


def test_a_link_to_a_missing_photograph_is_counted_and_stays(index, photos, unplugged):
    unplugged("link.jpg", "disk/far.jpg")
    report = index.add()
    assert report.failures == [(str(photos / "link.jpg"), "link to a file that is missing")]
    assert report.removed == 0
    assert len(index) == 6


def test_a_folder_that_cannot_be_listed_is_not_called_empty(filled, photos, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    for named in ([], [photos]):
        with pytest.raises(
            ValueError, match=r"cannot be read\. Check the disk and its permissions"
        ):
            filled.add(*named)
    assert len(filled) == 5


def test_a_folder_without_images_is_refused_with_its_cause(filled, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    for other in ("a.psd", "b.PSD", "c.txt"):
        (tmp_path / "empty" / other).touch()
    message = r"folder: .*empty' has no images .* types: 3 \(\.psd, \.txt\)"
    with pytest.raises(ValueError, match=message):
        filled.add(photos, tmp_path / "empty")


def test_an_index_whose_only_folder_is_empty_or_gone_keeps_its_photographs(filled, photos):
    photos.rename(photos.with_name("unmounted"))
    with pytest.raises(ValueError, match="is not a folder"):
        filled.add()
    photos.mkdir()
    with pytest.raises(ValueError, match="has 5 from it"):
        filled.add()
    assert len(filled) == 5
    assert [*filled.folders] == [photos]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["A/*.jpg", "a?b/", "/red.jpg"], {"green.png", "white.png"}),
        (["[a]", "a/blue", "B"], {"green.png", "red.jpg", "white.png", "blue.jpg"}),
    ],
)
def test_patterns_leave_files_and_folders_out_until_there_are_others(
    filled, photos, color_model, patterns, left
):
    filled.add(photos, exclude=patterns)
    assert {*names(filled.newest())} == left
    filled.add(photos)
    assert {*names(filled.newest())} == left
    upgrade_index(filled, color_model, truncate_dim=12)
    assert {*names(filled.newest())} == left
    filled.add(exclude=[""])
    assert len(filled) == 5
    assert filled.folders == {photos: []}


def test_an_index_goes_on_with_a_model_of_the_same_files_without_weights(tmp_path, photos):
    bundled = save_color_model(tmp_path / "bundled", "teacher")
    with Index.open(tmp_path / "index", bundled, create=True) as index:
        assert index.add(photos / "a").embedded == 2
    checkout = save_color_model(tmp_path / "checkout", "teacher")
    (checkout / "model.safetensors").write_bytes(b"not in the wheel")
    with Index.open(tmp_path / "index", checkout, create=True) as index:
        assert index.add(photos).embedded == 3


@pytest.fixture
def with_missing(filled, tmp_path, paint):
    """An index of three folders, of which one is gone and one is empty."""
    for width, name in {60: "gone", 61: "empty"}.items():
        filled.add(paint(tmp_path / name / "one.jpg", "blue", width).parent)
    shutil.rmtree(tmp_path / "gone")
    (tmp_path / "empty" / "one.jpg").unlink()
    return filled


def test_folders_that_are_missing_block_no_update_of_others(with_missing, photos, tmp_path, paint):
    (photos / "red.jpg").unlink()
    report = with_missing.add()
    assert report.missing == [str(tmp_path / "empty"), str(tmp_path / "gone")]
    assert report.removed == 1
    assert len(with_missing) == 6
    with_missing.add(exclude=["private*"])  # which holds for them as well
    assert [*with_missing.folders.values()] == [["private*"]] * 3
    for width, name in {62: "private.jpg", 63: "public.jpg"}.items():
        paint(tmp_path / "gone" / name, "blue", width)
    assert with_missing.add().missing == [str(tmp_path / "empty")]
    found = names(with_missing.newest())
    assert "public.jpg" in found and "private.jpg" not in found


def test_folders_inside_and_around_an_indexed_one_are_indexed_once(index, photos, tmp_path):
    index.add(photos / "a")
    assert index.add(photos / "a" / "b").unchanged == 2
    assert [*index.folders] == [photos / "a"]
    report = index.add(photos)
    assert report.unchanged == 2
    assert report.embedded == 3
    assert report.removed == 0
    (tmp_path / "link").symlink_to(photos)
    assert index.add(tmp_path / "link" / "a").unchanged == 5
    assert [*index.folders] == [photos]


def test_a_full_disk_keeps_the_last_good_index(filled, photos, paint, monkeypatch):
    before = filled.newest()
    paint(photos / "new.jpg", "red", width=33)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(vectors.VectorStore, "write", full)
        message = r"index: cannot write to .* \(.*No space left.*\)\. What was indexed before is"
        with pytest.raises(OSError, match=message):
            filled.add(photos)
    assert filled.newest() == before
    assert filled.add(photos).found == len(filled) == 6


def test_a_second_writer_is_refused(filled, photos):
    with filled.writing(), Index.open(filled.folder) as other:
        with pytest.raises(ValueError, match="index: another process is writing to"):
            other.add(photos)
        assert names(other.search("red", top=1)) == ["red.jpg"]  # searches go on
    assert filled.add(photos).unchanged == 5


def test_a_model_whose_files_changed_may_not_add_and_searches_with_a_note(tmp_path, photos):
    model = save_color_model(tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"the weights stay")
    with Index.open(tmp_path / "index", model, create=True) as index:
        index.add(photos)
    tokenizer = model / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"red"', '"wed"'))
    with Index.open(tmp_path / "index") as index:
        with pytest.warns(QueryWarning, match="have changed since it wrote the index"):
            index.search("green")
        with pytest.raises(ValueError, match=r"model: .*fingerprint"):
            index.add()


def test_no_index_is_created_among_other_files(tmp_path, color_model, paint):
    photo = paint(tmp_path / "mine" / "catalog-1.sqlite.jpg", "red")
    with pytest.raises(ValueError, match=r"index: '.*mine' has other files and no index"):
        Index.open(tmp_path / "mine", color_model, create=True)
    assert photo.exists()


def test_a_teacher_is_known_by_its_weights_or_its_name():
    teacher = Space("some/teacher", "1" * 16, None, None, None, "teacher", 16, 16)
    student = Space("student", "2" * 16, "a/copy", teacher.weights, "digest", "student", 16, 16)
    stranger = replace(student, teacher_weights="0" * 16)
    assert teacher.rotations(student) == (None, "digest")
    assert student.rotations(teacher)
    assert teacher.rotations(stranger) is None
    assert teacher.rotations(replace(stranger, teacher="some/teacher"))
    # a student that has left the space of its teacher
    left = Space("left", "2" * 16, "some/teacher", None, None, "left", 16, 16)
    assert teacher.rotations(left) is None
    assert left.rotations(teacher) is None
    assert left.rotations(replace(left, weights="3" * 16, files="other")) is None


@pytest.fixture
def student(tmp_path):
    return save_color_model(tmp_path / "student", "some/teacher", turn=7, rotated=True)


def assert_finds_red(folder, model):
    with Index.open(folder, model, model_id="some/teacher") as index:
        (hit,) = index.search("红", top=1)
    assert Path(hit.path).name == "red.jpg"
    assert hit.score == pytest.approx(1, abs=0.02)


def test_a_rotated_student_searches_the_index_of_its_teacher(
    tmp_path, color_model, student, photos
):
    folder = tmp_path / "index"
    with Index.open(folder, color_model, create=True, model_id="some/teacher") as index:
        index.add(photos)
    assert_finds_red(folder, student)


def test_the_index_of_a_rotated_student_is_searched_by_its_relatives(
    tmp_path, color_model, student, photos
):
    gone = save_color_model(tmp_path / "gone", "some/teacher", turn=3, rotated=True)
    with Index.open(tmp_path / "index", gone, create=True, truncate_dim=9) as index:
        index.add(photos)
    shutil.rmtree(gone)  # its rotation is in the index
    assert_finds_red(tmp_path / "index", student)
    assert_finds_red(tmp_path / "index", color_model)


def test_a_model_with_fewer_dimensions_than_the_index_is_refused(tmp_path, color_model, photos):
    with Index.open(tmp_path / "index", color_model, create=True, truncate_dim=8) as index:
        index.add(photos)
    with pytest.raises(ValueError, match=r"dimensions: 4\) has a different .*dimensions: 8\)"):
        Index.open(tmp_path / "index", Runtime(color_model, truncate_dim=4))


def test_a_photograph_whose_embedding_is_not_finite_is_counted(filled, photos, paint, monkeypatch):
    def run(names, inputs):
        is_white = np.ptp(inputs["pixel_values"]) == 0
        return [np.full((1, 16), 0.25 if is_white else np.nan, np.float32)]

    monkeypatch.setitem(filled.runtime._sessions, "vision", SimpleNamespace(run=run))
    paint(photos / "new.jpg", "red", width=33)
    report = filled.add()
    assert report.failures == [(str(photos / "new.jpg"), "its embedding is not finite")]


def test_a_model_that_is_not_finite_is_refused_before_any_photograph(
    filled, photos, paint, monkeypatch
):
    nothing = SimpleNamespace(run=lambda *arguments: [np.full((1, 16), np.nan, np.float32)])
    monkeypatch.setitem(filled.runtime._sessions, "vision", nothing)
    paint(photos / "new.jpg", "red", width=33)
    with pytest.raises(ValueError, match=r"not finite\. Export it again"):
        filled.add()


@pytest.mark.parametrize(
    ("query", "note"),
    [
        ("red " * 6 + "blue " * 20, "'red red .*' is longer than 6 tokens"),
        ("red 🐶 水獭 закат", "'red 🐶 水獭 закат' contains 🐶, 水, 獭, закат, which"),
    ],
)
def test_what_the_model_does_not_read_gets_a_note(filled, query, note):
    with pytest.warns(QueryWarning, match=note):
        assert names(filled.search(query))[0] == "red.jpg"


def test_an_index_closes_after_the_statement_of_another_thread(tmp_path):
    database = Database(tmp_path / "a.sqlite", "")
    began = threading.Event()
    found = []

    def pause():
        began.set()
        time.sleep(0.2)
        return 1

    database._connection.create_function("pause", 0, pause)
    reading = threading.Thread(target=lambda: found.append(database.value("SELECT pause()")))
    reading.start()
    began.wait()
    database.close()
    reading.join()
    assert found == [1]

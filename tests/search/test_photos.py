"""Walks over folders, and photographs of every kind of damage."""

import os
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from modeling_dcclip.search.photos.files import Walk, patterns_of
from modeling_dcclip.search.photos.photos import UnreadablePhotoError, read_photo
from tests.tiny import encoded


def walked(folder, excluded=()):
    return [os.path.relpath(os.fsdecode(state.path), folder) for state in Walk(folder, excluded)]


def read(path, **options):
    return read_photo(os.fsencode(path), lambda digest: False, **options)


def test_a_walk_finds_images_in_the_order_of_names(photos, paint):
    for name in (".hidden.jpg", ".cache/x.jpg", "@eaDir/x.jpg", "$RECYCLE.BIN/x.jpg"):
        paint(photos / name, "red")
    (photos / "notes.txt").write_text("no image")
    (photos / "folder.jpg").mkdir()
    assert walked(photos) == [
        "green.png",
        "red.jpg",
        "white.png",
        "a/blue.jpg",
        "a/b/yellow.webp",
    ]


def test_a_name_is_left_out_below_the_folder_alone(tmp_path, paint):
    folder = tmp_path / "trip_2019"
    for name in ("a.jpg", "b_2019.jpg", "2019/c.jpg", "d/2019/e.jpg"):
        paint(folder / name, "red")
    for pattern, left in {
        "*2019*": ["a.jpg"],
        "*/2019/*": ["a.jpg", "b_2019.jpg"],
        "trip_*/*": ["a.jpg", "b_2019.jpg", "2019/c.jpg", "d/2019/e.jpg"],
        f"{folder}/2019": ["a.jpg", "b_2019.jpg", "d/2019/e.jpg"],
    }.items():
        assert walked(folder, patterns_of([pattern])) == left


def test_links_in_a_circle_end_and_each_directory_counts_once(photos, tmp_path, paint):
    paint(tmp_path / "elsewhere" / "far.jpg", "blue")
    (photos / "a" / "up").symlink_to(photos)
    for name in ("far", "far too"):
        (photos / "a" / name).symlink_to(tmp_path / "elsewhere")
    (photos / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    first, *others = walked(photos)
    assert first == "gone.jpg"
    assert len(others) == 6
    assert others[-1] == "a/far/far.jpg"


@pytest.mark.parametrize("extension", [".jfif", ".mpo", ".bmp", ".jp2"])
def test_every_extension_of_a_format_that_is_decoded_is_found(tmp_path, extension):
    image = Image.new("RGB", (40, 20), "red")
    options = {"append_images": [image], "save_all": True} if extension == ".mpo" else {}
    image.save(tmp_path / f"a{extension}", **options)
    (state,) = Walk(tmp_path)
    assert read(os.fsdecode(state.path)).frames[0][1].size == (40, 20)


ORIGINAL, DIGITIZED, CHANGED = 0x9003, 0x9004, 0x0132


@pytest.mark.parametrize(
    ("tags", "taken"),
    [
        ({ORIGINAL: 1, DIGITIZED: 2, CHANGED: 3}, 1),
        ({DIGITIZED: 2, CHANGED: 3}, 2),
        ({CHANGED: 3}, 3),
        ({ORIGINAL: 0, DIGITIZED: 2, CHANGED: 3}, 2),
    ],
)
def test_the_first_tag_with_a_date_counts(tmp_path, tags, taken):
    """And not the date in the name. 0 stands for zeros, of a camera without a clock."""
    exif = Image.Exif()
    for tag, month in tags.items():
        date = f"2023:{month:02}:14 18:22:01" if month else "0000:00:00 00:00:00"
        (exif if tag == CHANGED else exif.get_ifd(0x8769))[tag] = date
    Image.new("RGB", (40, 20)).save(tmp_path / "IMG_20190501_101500.jpg", exif=exif)
    assert read(tmp_path / "IMG_20190501_101500.jpg").taken == f"2023-{taken:02}-14 18:22:01"


def failure_of(path, **options):
    with pytest.raises(UnreadablePhotoError) as raised:
        read(path, **options)
    return raised.value


def test_failures_that_may_pass_are_told_apart(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, cause in {
        tmp_path / "none.jpg": "No such file or directory",
        tmp_path / "pipe.jpg": "not a regular file",
        "/dev/zero": "not a regular file",
    }.items():
        failure = failure_of(path)
        assert failure.cause == cause
        assert not failure.is_lasting
        assert failure.state is None


def test_a_format_without_its_plug_in_is_read_again_later(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".jpg": "JPEG"})
    failure = failure_of(tmp_path / "a.heic")
    assert "pip install -U pillow pillow-heif" in failure.cause
    assert not failure.is_lasting


def test_a_file_that_changes_while_it_is_read_is_read_by_the_next_run(photos):
    path = photos / "red.jpg"
    with pytest.raises(UnreadablePhotoError, match="changed while it was read") as raised:
        read_photo(os.fsencode(path), lambda digest: path.write_bytes(b"later") < 0)
    assert not raised.value.is_lasting
    assert raised.value.state is None


class FakeRaw(SimpleNamespace):
    """The parts of rawpy that are used; `preview` is what `extract_thumb` returns or raises."""

    class LibRawError(Exception):
        pass

    ThumbFormat = SimpleNamespace(JPEG="jpeg", BITMAP="bitmap")

    @contextmanager
    def imread(self, file):
        assert file.read() == b"raw"

        def extract_thumb():
            if self.preview is None:
                raise self.LibRawError("no thumbnail")
            return self.preview

        yield SimpleNamespace(extract_thumb=extract_thumb, sizes=SimpleNamespace(flip=6))


@pytest.fixture
def read_raw(tmp_path, monkeypatch):
    """Function that reads a raw photograph with a preview."""
    (tmp_path / "a.dng").write_bytes(b"raw")
    monkeypatch.setattr("modeling_dcclip.search.photos.photos.find_spec", lambda name: name)

    def read_preview(kind, data):
        preview = kind and SimpleNamespace(format=kind, data=data)
        monkeypatch.setitem(sys.modules, "rawpy", FakeRaw(preview=preview))
        return read(tmp_path / "a.dng")

    return read_preview


def test_a_raw_photograph_is_its_preview_upright_with_its_date(read_raw):
    exif = Image.Exif()
    exif[0x0132] = "2023:05:12 09:30:12"
    photo = read_raw("jpeg", encoded(Image.new("RGB", (60, 40), "red"), "JPEG", exif=exif))
    assert photo.frames[0][1].size == (40, 60)
    assert photo.taken == "2023-05-12 09:30:12"
    assert read_raw("bitmap", np.zeros((40, 60, 3), np.uint8)).frames[0][1].size == (40, 60)


def test_a_raw_photograph_without_a_preview_has_its_cause(read_raw):
    with pytest.raises(UnreadablePhotoError, match="raw photograph without a preview") as raised:
        read_raw(None, None)
    assert raised.value.state


def test_without_its_package_a_raw_photograph_has_a_cause(tmp_path, monkeypatch):
    (tmp_path / "a.dng").write_bytes(b"raw")
    monkeypatch.setattr("modeling_dcclip.search.photos.photos.find_spec", lambda name: None)
    failure = failure_of(tmp_path / "a.dng")
    assert failure.cause == "raw photographs need rawpy: pip install rawpy"
    assert not failure.is_lasting

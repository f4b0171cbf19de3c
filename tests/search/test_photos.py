"""Walks over folders, and photographs of every kind of damage."""

import os
import struct

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


def dng(preview: bytes, size: tuple[int, int], orientation: int, taken: bytes | None) -> bytes:
    """A DNG photograph with a JPEG preview, and sensor data of 64 x 64 gray values."""
    edge = 64
    sensor = struct.pack("<H", 1000) * edge**2

    def directory(entries: list[tuple[int, str, tuple]], start: int) -> bytes:
        """A TIFF directory that is written at a position, with the values that do not fit into its entries."""
        entries = sorted(entries)
        head = struct.pack("<H", len(entries))
        values = b""
        for tag, kind, numbers in entries:
            content = struct.pack(f"<{kind}", *numbers)
            code, count = {"B": (1, 1), "s": (2, 1), "H": (3, 2), "I": (4, 4), "i": (10, 8)}[
                kind[-1]
            ]
            number = len(content) // count
            if len(content) > 4:
                place = start + 2 + 12 * len(entries) + 4 + len(values)
                values += content + bytes(len(content) % 2)
                content = struct.pack("<I", place)
            head += struct.pack("<HHI", tag, code, number) + content.ljust(4, b"\0")
        return head + bytes(4) + values

    def both(first: int, second: int, preview_at: int, sensor_at: int) -> tuple[bytes, bytes]:
        width, height = size
        shown = [
            (254, "I", (1,)), (256, "I", (width,)), (257, "I", (height,)), (258, "3H", (8, 8, 8)),
            (259, "H", (7,)), (262, "H", (6,)), (271, "6s", (b"Maker",)), (272, "6s", (b"Model",)),
            (273, "I", (preview_at,)), (274, "H", (orientation,)), (277, "H", (3,)),
            (278, "I", (height,)), (279, "I", (len(preview),)), (330, "I", (second,)),
            (50706, "4B", (1, 4, 0, 0)), (50721, "18i", (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)),
        ]  # fmt: skip
        if taken is not None:
            shown.append((306, "20s", (taken,)))
        hidden = [
            (254, "I", (0,)), (256, "I", (edge,)), (257, "I", (edge,)), (258, "H", (16,)),
            (259, "H", (1,)), (262, "H", (32803,)), (273, "I", (sensor_at,)), (277, "H", (1,)),
            (278, "I", (edge,)), (279, "I", (len(sensor),)), (33421, "2H", (2, 2)),
            (33422, "4B", (0, 1, 1, 2)), (50717, "I", (16000,)),
        ]  # fmt: skip
        return directory(shown, first), directory(hidden, second)

    first, second = both(8, 0, 0, 0)
    starts = 8, 8 + len(first), 8 + len(first) + len(second)
    preview += bytes(len(preview) % 2)
    directories = both(*starts, starts[2] + len(preview))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(directories) + preview + sensor


@pytest.fixture
def read_raw(tmp_path):
    """Function that reads a raw photograph, which lies on its side."""

    def read_preview(taken=None):
        preview = encoded(Image.new("RGB", (60, 40), "red"), "JPEG")
        (tmp_path / "a.dng").write_bytes(dng(preview, (60, 40), 6, taken))
        return read(tmp_path / "a.dng")

    return read_preview


def test_a_raw_photograph_is_its_preview_upright_with_its_date(read_raw):
    photo = read_raw(b"2023:05:12 09:30:12")
    assert photo.frames[0][1].size == (40, 60)
    assert photo.frames[0][1].getpixel((20, 30))[0] > 200
    assert photo.taken == "2023-05-12 09:30:12"


def test_a_raw_photograph_without_a_date_has_none(read_raw):
    assert read_raw().taken is None


@pytest.mark.parametrize("content", [b"raw", b"II*\0\x08\0\0\0"])
def test_a_damaged_raw_photograph_has_its_cause(content, tmp_path):
    (tmp_path / "a.dng").write_bytes(content)
    with pytest.raises(UnreadablePhotoError, match="raw photograph without a preview") as raised:
        read(tmp_path / "a.dng")
    assert raised.value.state


def test_without_its_package_a_raw_photograph_has_a_cause(tmp_path, monkeypatch):
    (tmp_path / "a.dng").write_bytes(b"raw")
    monkeypatch.setattr("modeling_dcclip.search.photos.photos.find_spec", lambda name: None)
    failure = failure_of(tmp_path / "a.dng")
    assert failure.cause == "raw photographs need rawpy: pip install rawpy"
    assert not failure.is_lasting

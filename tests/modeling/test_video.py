"""Videos in an index: key frames, one hit with its time, and updates, copies and repairs that keep them whole."""

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from modeling_dcclip.search import video as module
from modeling_dcclip.search.files import UnreadablePhotoError, Walk
from modeling_dcclip.search.index import Index
from modeling_dcclip.search.photos import make_thumbnail, read_photo
from modeling_dcclip.search.serve import SearchServer
from modeling_dcclip.search.video import read_frames
from tests.local_server import serving
from tests.modeling.conftest import RGB

av = pytest.importorskip("av")


def film(
    path: Path, *colors: str, seconds: int = 10, has_rotation: bool = False, **metadata: str
) -> Path:
    """A video that shows each colour for some seconds, with a key frame at the start of each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata)
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", seconds
        for color in colors:
            frame = np.full((48, 64, 3), RGB[color], np.uint8)
            frame[:, 32:] = 0 if has_rotation else frame[:, 32:]
            for _ in range(seconds):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return path


def color_at(image: Image.Image, x: int = 3, y: int = 3) -> str:
    pixel = np.array(image.getpixel((x, y)))
    return min(RGB, key=lambda name: np.abs(pixel - RGB[name]).sum())


def cause(path: Path) -> str:
    with pytest.raises(UnreadablePhotoError) as raised:
        read_photo(os.fsencode(path), lambda digest: False)
    return raised.value.cause


@pytest.fixture
def index(tmp_path, color_model, photos):
    film(photos / "clip.mp4", "red", "green", "blue")
    with Index.open(tmp_path / "index", color_model, create=True) as index:
        index.add(photos)
        yield index


def test_one_key_frame_in_ten_seconds_with_its_time(tmp_path):
    path = film(tmp_path / "a.mp4", "red", "green", "blue", seconds=10)
    _, frames = read_frames(io.BytesIO(path.read_bytes()), 16)
    found = [(seconds, color_at(image)) for seconds, image in frames]
    assert found == [(0, "red"), (10, "green"), (20, "blue")]
    assert color_at(Image.open(io.BytesIO(make_thumbnail(str(path), 16, 20.0)))) == "blue"


@pytest.mark.parametrize(
    "metadata",
    [
        {"creation_time": "2023-05-12T09:30:12Z"},
        {"com.apple.quicktime.creationdate": "2023-05-12T09:30:12+0800"},
    ],
)
def test_the_date_is_the_local_one(monkeypatch, metadata):
    monkeypatch.setenv("TZ", "UTC")
    assert module._date(metadata) == "2023-05-12 09:30:12"


def test_a_clock_that_was_not_set_gives_no_date():
    assert module._date({"creation_time": "1970-01-02T12:00:00Z"}) is None


def test_a_video_of_a_phone_held_upright_is_turned(tmp_path):
    path = film(tmp_path / "a.mp4", "red", has_rotation=True)
    one = 65536
    plain, turned = (
        np.array(each, ">i4").tobytes()
        for each in ([one, 0, 0, 0, one, 0, 0, 0, 1 << 30], [0, one, 0, -one, 0, 0, 0, 0, 1 << 30])
    )
    content = path.read_bytes()
    start = content.index(plain, content.index(b"tkhd"))
    _, [(_, image)] = read_frames(
        io.BytesIO(content[:start] + turned + content[start + len(plain) :]), None
    )
    assert (
        image.size == (48, 64)
        and color_at(image, 24, 3) == "red"
        and max(image.getpixel((24, 60))) < 60
    )


def test_what_cannot_be_read_has_a_cause(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", "red")
    (tmp_path / "cut.mp4").write_bytes(b"no video" * 99)
    # a list opens the other file
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    monkeypatch.chdir(tmp_path)
    assert [cause(tmp_path / name) for name in ("cut.mp4", "list.mp4")] == ["damaged"] * 2
    content = film(tmp_path / "codec.mkv", "red").read_bytes()
    (tmp_path / "codec.mkv").write_bytes(content.replace(b"V_MPEG4/ISO/ASP", b"V_UNKNOWN/CODEC"))
    assert cause(tmp_path / "codec.mkv") == "damaged"
    monkeypatch.setattr(module, "MAX_PIXELS", 100)
    assert cause(path) == "too many pixels"
    monkeypatch.setattr("modeling_dcclip.search.photos.find_spec", lambda name: None)
    assert "pip install av" in cause(path)


def test_a_video_is_one_hit_with_the_time_of_its_best_frame(index, photos):
    for color, seconds in {"red": 0.0, "green": 10.0, "blue": 20.0}.items():
        hits = index.search(color, top=6)
        assert len({hit.path for hit in hits}) == 6
        assert {hit.seconds for hit in hits if hit.path.endswith(".mp4")} == {seconds}
    (hit,) = index.search("green", path="*.mp4")
    assert hit.time == "0:10" and replace(hit, seconds=3725.9).time == "62:05"
    for seconds, name in {hit.seconds: "green.png", None: "red.jpg"}.items():
        found = {each.path for each in index.search(like=[(hit.id, seconds)], top=2)}
        assert found == {hit.path, str(photos / name)}


def test_copies_moves_changes_and_removal_keep_the_frames_whole(index, photos):
    shutil.copy(photos / "clip.mp4", photos / "copy.mp4")
    assert index.add().copies == 1
    (photos / "clip.mp4").unlink()
    (photos / "copy.mp4").rename(photos / "moved.mp4")
    report = index.add()
    assert (report.moved, report.removed, index.catalog.num_rows) == (1, 1, 8)
    # two frames, written while the old ones may still be read
    film(photos / "moved.mp4", "white", "blue")
    assert index.add().embedded == 1 and index.catalog.free_rows().size == 3
    (hit,) = index.search("blue", path="*.mp4")
    assert hit.seconds == 10.0 and index.catalog.num_rows == 10
    (photos / "moved.mp4").unlink()
    assert index.add().removed == 1 and index.catalog.free_rows().size == 5
    film(photos / "new.mp4", "red", "green", "blue")
    index.add()
    assert index.catalog.num_rows == 10 and index.search("green", path="*.mp4")[0].seconds == 10.0


def test_the_page_shows_the_frame_that_was_found(index):
    with serving(SearchServer(index, port=0)) as server:
        hits = json.loads(urlopen(f"{server.url}search?q=green").read())["hits"]
        hit = next(each for each in hits if each["path"].endswith(".mp4"))
        image = urlopen(f"{server.url}thumbnail/{hit['id']}?version={hit['version']}").read()
    assert (hit["name"], hit["seconds"], hit["time"]) == ("clip.mp4", 10.0, "0:10")
    assert color_at(Image.open(io.BytesIO(image))) == "green"


def test_the_motion_of_a_live_photo_is_part_of_its_photograph(tmp_path, paint):
    for name in ("IMG_1.MOV", "IMG_2.mov", "IMG_1.mp4"):
        (tmp_path / name).write_bytes(b"motion")
    paint(tmp_path / "IMG_1.jpg", "red")
    with (tmp_path / "IMG_1.mov").open("wb") as file:  # a film with a poster
        file.truncate(20 * 2**20)
    found = [Path(os.fsdecode(state.path)).name for state in Walk(tmp_path)]
    assert found == ["IMG_1.jpg", "IMG_1.mov", "IMG_1.mp4", "IMG_2.mov"]

"""Videos in an index: key frames, one hit with its time, and updates, copies and repairs that keep them whole."""

import io
import os
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from modeling_dcclip.search.photos import video as module
from modeling_dcclip.search.photos.files import UnreadablePhotoError, Walk
from modeling_dcclip.search.photos.photos import read_photo
from modeling_dcclip.search.photos.video import read_frame, read_frames
from modeling_dcclip.search.serve.page_server import SearchServer
from tests.local_server import client_of
from tests.search.conftest import RGB, film, names

pytest.importorskip("av")


def color_at(image, x=3, y=3):
    pixel = np.array(image.getpixel((x, y)))
    return min(RGB, key=lambda name: np.abs(pixel - RGB[name]).sum())


def cause(path):
    with pytest.raises(UnreadablePhotoError) as raised:
        read_photo(os.fsencode(path), lambda digest: False)
    return raised.value.cause


@pytest.fixture
def filmed(index, photos):
    """An index of photographs and a video of three colors."""
    film(photos / "clip.mp4", "red", "green", "blue")
    index.add(photos)
    return index


@pytest.mark.parametrize(
    ("edge", "size"), [(None, (64, 48)), (30, (64, 48)), (12, (32, 24)), (1, (3, 2))]
)
def test_frames_are_reduced_to_twice_the_edge_at_most(tmp_path, edge, size):
    path = film(tmp_path / "a.mp4", "red", "green")
    _, frames = read_frames(io.BytesIO(path.read_bytes()), edge)
    assert [image.size for _, image in frames] == [size] * 2


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".wmv", "wmv2"), (".mts", "mpeg2video"), (".avi", "mpeg4")]
)
def test_a_preview_is_the_frame_that_was_found(tmp_path, suffix, codec):
    av = pytest.importorskip("av")
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 12
        for number in range(25 * 25):  # it brightens
            pixels = np.full((48, 64, 3), number * 255 // 624, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    content = io.BytesIO(path.read_bytes())
    _, frames = read_frames(content, 48)
    assert len(frames) == 3
    for seconds, image in frames:
        assert read_frame(content, seconds, 48).tobytes() == image.tobytes()


def test_a_recording_without_a_length_has_a_key_frame_in_ten_seconds(tmp_path):
    path = film(tmp_path / "a.webm", "red", "green", "blue", live=True)
    _, frames = read_frames(io.BytesIO(path.read_bytes()), 16)
    assert [color_at(image) for _, image in frames] == ["red", "green", "blue"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"creation_time": "2023-05-12T01:30:12Z"},
        {"com.apple.quicktime.creationdate": "2023-05-12T09:30:12+0900"},
    ],
)
@pytest.mark.skipif(not hasattr(time, "tzset"), reason="Windows takes the zone of its settings")
def test_the_date_is_the_local_one(monkeypatch, metadata):
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        date = module._date(metadata)
    time.tzset()
    assert date == "2023-05-12 09:30:12"


def test_a_clock_that_was_not_set_gives_no_date():
    assert module._date({"creation_time": "1970-01-02T12:00:00Z"}) is None


def test_a_video_of_a_phone_held_upright_is_turned(tmp_path):
    content = film(tmp_path / "a.mp4", "red", half=True).read_bytes()
    # the matrix of the track's header: as it is, and turned by 90 degrees
    plain = np.array([1, 0, 0, 0, 1], ">i4") << 16
    turned = np.array([0, 1, 0, -1, 0], ">i4") << 16
    before, mark, after = content.partition(b"tkhd")
    after = after.replace(plain.tobytes(), turned.tobytes(), 1)
    _, [(_, image)] = read_frames(io.BytesIO(before + mark + after), None)
    assert image.size == (48, 64)
    assert color_at(image, 24, 3) == "red"
    assert max(image.getpixel((24, 60))) < 60


@pytest.mark.parametrize("content", ["no video" * 99, "ffconcat version 1.0\nfile a.mp4\n"])
def test_a_file_that_is_no_video_has_a_cause_and_opens_no_other_file(
    tmp_path, monkeypatch, content
):
    film(tmp_path / "a.mp4", "red")
    path = tmp_path / "list.mp4"
    path.write_text(content)
    monkeypatch.chdir(tmp_path)
    assert cause(path) == "damaged"


def test_a_video_that_cannot_be_read_has_a_cause(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mkv", "red")
    with monkeypatch.context() as patch:
        patch.setattr(module, "MAX_PIXELS", 100)
        assert cause(path) == "too many pixels"
    with monkeypatch.context() as patch:
        patch.setattr("modeling_dcclip.search.photos.photos.find_spec", lambda name: None)
        assert "pip install av" in cause(path)
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/ASP", b"V_UNKNOWN/CODEC"))
    assert cause(path) == "damaged"


@pytest.mark.parametrize(("color", "seconds"), [("red", 0.0), ("green", 10.0), ("blue", 20.0)])
def test_a_video_is_one_hit_with_the_time_of_its_best_frame(filmed, color, seconds):
    hits = filmed.search(color)
    assert len(hits) == 6
    assert [hit.seconds for hit in hits if hit.seconds is not None] == [seconds]
    assert replace(hits[0], seconds=3725.9).time == "62:05"


@pytest.mark.parametrize(("seconds", "name"), [(10.0, "green.png"), (None, "red.jpg")])
def test_a_frame_is_an_example(filmed, seconds, name):
    (hit,) = filmed.search("green", path="*.mp4")
    assert {*names(filmed.search(like=[(hit.id, seconds)], top=2))} == {"clip.mp4", name}


def test_copies_and_moves_of_a_video_keep_its_frames(filmed, photos):
    shutil.copy(photos / "clip.mp4", photos / "copy.mp4")
    assert filmed.add().copies == 1
    (photos / "clip.mp4").unlink()
    (photos / "copy.mp4").rename(photos / "moved.mp4")
    report = filmed.add()
    assert report.moved == 1
    assert report.removed == 1
    assert filmed.catalog.num_rows == 8


def test_the_rows_of_a_changed_video_are_used_again(filmed, photos):
    # two frames, written while the old ones may still be read
    film(photos / "clip.mp4", "white", "blue")
    filmed.add()
    assert filmed.catalog.num_rows == 10
    assert filmed.catalog.free_rows().size == 3
    assert filmed.search("blue", path="*.mp4")[0].seconds == 10.0
    film(photos / "new.mp4", "red", "green", "blue")
    filmed.add()
    assert filmed.catalog.num_rows == 10
    assert filmed.search("green", path="*.mp4")[0].seconds == 10.0


def test_the_page_shows_the_frame_that_was_found(filmed):
    with SearchServer(filmed, port=0) as server, client_of(server) as client:
        hits = client.get("/search?q=green&path=*.mp4").json()["hits"]
        image = client.get(f"/thumbnail/{hits[0]['id']}").content
    assert hits[0]["seconds"] == 10.0
    assert hits[0]["time"] == "0:10"
    assert color_at(Image.open(io.BytesIO(image))) == "green"


def test_the_motion_of_a_live_photo_is_part_of_its_photograph(tmp_path, paint):
    for name in ("IMG_1.MOV", "IMG_2.mov", "IMG_1.mp4"):
        (tmp_path / name).write_bytes(b"motion")
    paint(tmp_path / "IMG_1.jpg", "red")
    (tmp_path / "IMG_1.mov").write_bytes(bytes(20 * 2**20))  # a film with a poster
    found = [os.path.basename(state.path) for state in Walk(tmp_path)]
    assert found == [b"IMG_1.jpg", b"IMG_1.mov", b"IMG_1.mp4", b"IMG_2.mov"]

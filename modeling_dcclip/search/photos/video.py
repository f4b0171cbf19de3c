"""Key frames of videos, read with PyAV: one in ten seconds, and of a long video twenty at equal distances."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, BinaryIO

from PIL import Image

from modeling_dcclip.search.photos.decoding import current_budget
from modeling_dcclip.search.photos.files import UnreadablePhotoError

INTERVAL_S = 10
MAX_FRAMES = 20
MAX_HOURS = 6  # twenty frames say little about a longer video
MAX_PIXELS = 40_000_000  # 8K has 33 million
BYTES_PER_PIXEL = 10  # memory of a decoder of key frames, with 10 bits a channel
# formats of containers; a playlist would open other files
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf"
DATES = ("com.apple.quicktime.creationdate", "creation_time")  # local time of an iPhone; UTC


def read_frames(
    file: BinaryIO, edge: int | None
) -> tuple[str | None, list[tuple[float, Image.Image]]]:
    """Read the local date of a video, `YYYY-MM-DD HH:MM:SS` or None, and its key frames, at least one.

    Each frame is its time in seconds and an upright 8-bit RGB image, whose shorter side has at least `edge` pixels if
    the video has.

    Raises:
        UnreadablePhotoError: The video is damaged, too long or too large, or has no key frame.
    """
    frames: dict[float, Image.Image] = {}
    with _open(file) as (container, stream):
        length = (container.duration or 0) / 1e6 or _length(container, stream)
        if length > MAX_HOURS * 3600:
            raise UnreadablePhotoError("video longer than 6 hours")
        step = max(INTERVAL_S, length / MAX_FRAMES)
        for number in range(min(MAX_FRAMES, max(1, math.ceil(length / step)))):
            frame = _frame_at(container, stream, number * step)
            if frame is None:
                break
            seconds = _time(frame, stream)
            if seconds not in frames:
                frames[seconds] = _image(frame, edge)
        taken = _date(container.metadata)
    if not frames:
        raise UnreadablePhotoError("video without a key frame")
    return taken, [*frames.items()]


def read_frame(file: BinaryIO, seconds: float, edge: int) -> Image.Image:
    """Read the key frame at a time that `read_frames` returned; other arguments and errors are the same."""
    with _open(file) as (container, stream):
        # in some formats, a seek ends before or behind the frame
        for start in (seconds, seconds - INTERVAL_S, 0.0):
            frame = _frame_at(container, stream, max(start, 0.0) + 0.001)  # times are rounded
            while frame is not None and _time(frame, stream) < seconds:
                frame = _next_frame(container, stream)
            if frame is not None and _time(frame, stream) == seconds:
                return _image(frame, edge)
        raise UnreadablePhotoError("damaged")


@contextmanager
def _open(file: BinaryIO) -> Iterator[tuple[Any, Any]]:
    """Container and video stream of a file, whose decoder skips all but key frames."""
    import av  # here, because most indexes have no video

    file.seek(0)
    # a title that is not UTF-8 must not fail; PyAV 19, for Python 3.12 and newer, has no such option and never raises
    is_old = int(av.__version__.partition(".")[0]) < 19
    tolerant: Any = {"metadata_errors": "replace"} if is_old else {}
    try:
        with av.open(file, options={"format_whitelist": FORMATS}, **tolerant) as container:
            stream: Any = container.streams.best("video")
            codec = stream.codec_context
            pixels = codec.width * codec.height
            if pixels > MAX_PIXELS:
                raise UnreadablePhotoError("too many pixels")
            current_budget().take(BYTES_PER_PIXEL * pixels)
            codec.skip_frame = "NONKEY"
            codec.thread_count = 1
            yield container, stream
    except UnreadablePhotoError:
        raise
    # PyAV raises some of Python's own, and a codec that it does not know is None
    except (av.FFmpegError, ValueError, LookupError, AttributeError) as error:
        raise UnreadablePhotoError("damaged") from error


def _start(stream: Any) -> float:
    return float((stream.start_time or 0) * stream.time_base)


def _frame_at(container: Any, stream: Any, seconds: float) -> Any:
    """The last key frame before a time, or the first of the video; None at its end."""
    container.seek(int((_start(stream) + seconds) / stream.time_base), stream=stream)
    return _next_frame(container, stream)


def _next_frame(container: Any, stream: Any) -> Any:
    return next((frame for frame in container.decode(stream) if frame.time is not None), None)


def _time(frame: Any, stream: Any) -> float:
    return max(0.0, round(float(frame.time) - _start(stream), 3))


def _length(container: Any, stream: Any) -> float:
    """Length in seconds of a video that does not state it, as of a live stream: the time of its last packet."""
    times = (packet.pts for packet in container.demux(stream) if packet.pts is not None)
    return float(max(times, default=0) * stream.time_base) - _start(stream)


def _image(frame: Any, edge: int | None) -> Image.Image:
    scale = 1.0 if edge is None else min(1.0, 2 * edge / min(frame.width, frame.height))
    image = frame.to_image(
        width=max(1, round(frame.width * scale)), height=max(1, round(frame.height * scale))
    )
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _date(metadata: dict[str, str]) -> str | None:
    for name in DATES:
        with suppress(KeyError, ValueError, OverflowError):
            moment = datetime.fromisoformat(metadata[name])
            moment = moment.astimezone() if name == "creation_time" else moment
            if moment.year > 1970:  # else the clock was not set
                return moment.strftime("%Y-%m-%d %H:%M:%S")
    return None

"""Copies that a messenger has compressed, and screenshots that only resemble each other."""

import io
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from modeling_dcclip.search.duplicates import find_duplicates
from modeling_dcclip.search.signatures import place_of, shows_the_same, signature
from tests.search.conftest import names


def screenshot(*words):
    """A chat of an app: the same frame, with other words."""
    image = Image.new("RGB", (540, 1080), (237, 237, 237))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(24)
    for line, text in enumerate(words):
        top = 60 + 90 * line
        draw.rounded_rectangle((40, top, 480, top + 60), 10, fill="white")
        draw.text((60, top + 15), text, fill="black", font=font)
    return image


def landscape():
    noise = np.random.default_rng(0).normal(128, 60, (9, 12, 3))
    image = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    return image.resize((960, 720), Image.Resampling.BICUBIC)


def recompressed(image, quality, scale):
    content = io.BytesIO()
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size).save(content, "JPEG", quality=quality)
    return Image.open(content)


def same(first, second):
    return shows_the_same(signature(first), [signature(second)]).all()


LUNCH = ("Lunch at twelve?", "Yes, the usual place", "See you there")
TRAIN = ("Lunch at twelve?", "No, the train is late", "See you there")


@pytest.mark.parametrize(("quality", "scale"), [(30, 1), (60, 0.5), (80, 0.75)])
@pytest.mark.parametrize("image", [landscape(), screenshot(*LUNCH)], ids=["photo", "screenshot"])
def test_a_copy_shows_the_same_whatever_its_size_and_compression(image, quality, scale):
    assert same(image, recompressed(image, quality, scale))


@pytest.mark.parametrize("step", [(1, 1), (1, -1), (-1, 1)], ids=["rows", "columns", "diagonal"])
def test_a_copy_is_looked_for_on_both_sides_of_a_border(step):
    """Images whose halves differ by all amounts: one of them is next to the border of a cell."""
    signs = np.kron([[1, step[0]], [step[1], -step[0] * step[1]]], np.ones((20, 20)))
    for amount in range(40):
        one, other = (
            (128 + (amount + more) / 2 * signs).round().astype(np.uint8).tobytes()
            for more in (0, 1)
        )
        assert place_of(other)[0][0] in place_of(one)[0]
        assert place_of(one)[0][0] in place_of(other)[0]


def test_a_brighter_image_does_not_show_the_same():
    assert not same(landscape(), landscape().point(lambda value: min(value + 40, 255)))


COPIES = {"lunch.png", "mmexport lunch.png"}


@pytest.fixture
def chats(index, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    screenshot(*LUNCH).save(folder / "lunch.png")
    recompressed(screenshot(*LUNCH), 60, 0.5).save(folder / "mmexport lunch.png")
    screenshot(*TRAIN).save(folder / "train.png")
    landscape().save(folder / "landscape.png")
    index.add(folder)
    return index


def test_the_next_copy_takes_the_place_of_an_original_that_is_gone(chats, tmp_path):
    folder = tmp_path / "photos"
    recompressed(screenshot(*LUNCH), 50, 0.5).save(folder / "z.png")
    chats.add()
    for name in ("lunch.png", "mmexport lunch.png"):
        assert {len(hit.copies) for hit in chats.search("white")} == {
            0,
            len(find_duplicates(chats)[0]) - 1,
        }
        (folder / name).unlink()
        chats.add()
    assert not find_duplicates(chats)
    screenshot(*LUNCH).save(folder / "lunch.png")
    chats.add()
    assert {*names(find_duplicates(chats)[0])} == {"lunch.png", "z.png"}


def test_a_search_takes_no_longer_if_all_photographs_are_similar(index, tmp_path):
    """Every image has small squares in other places, and every other one is a copy of the one before."""
    (tmp_path / "photos").mkdir()
    for number in range(2, 602):
        image = Image.new("RGB", (160, 160), "white")
        for place in range(10):
            if number // 2 >> place & 1:
                left, top = 40 * (place % 4), 48 * (place // 4)
                image.paste("black", (left, top, left + 16, top + 16))
        image.save(tmp_path / "photos" / f"{number:04}.jpg", quality=85 - 20 * (number % 2))
    index.add(tmp_path / "photos")
    began = time.process_time()
    hits = index.search("white", top=100_000)
    assert time.process_time() - began < 1
    assert len(hits) == 300
    assert {len(hit.copies) for hit in hits} == {1}
    assert not index.search("white", skip=999_999)


def test_screenshots_whose_words_differ_are_not_duplicates(chats):
    (group,) = find_duplicates(chats, 0.945)
    assert {*names(group)} == COPIES

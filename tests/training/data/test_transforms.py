"""Random views against plain arithmetic: one draw at a time, with all others at "no change"."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from datasets import Image

from tests.tiny import make_image_processor
from training.config import AugmentConfig
from training.data import decode_image
from training.data.images import NUM_DRAWS, Augment, Normalize

SIZE = 64
NOTHING = AugmentConfig(zoom=0, stretch=0, shift=0, brightness=0, contrast=0, saturation=0)
STRONG = AugmentConfig(
    zoom=0.4,
    rotate=20,
    stretch=0.4,
    shift=0.1,
    flip=0.5,
    saturation=1.0,
    tint=0.1,
    blur=0.5,
    downscale=0.5,
)
# columns of the draws; each stays where it is, so that cached targets stay valid
COLUMNS = {
    "zoom": 0,
    "rotate": 1,
    "stretch": 2,
    "right": 3,
    "down": 4,
    "flip": 5,
    "contrast": 6,
    "saturation": 7,
    "brightness": 8,
    "blurred": 9,
    "blur": 10,
    "tint": 11,
    "reduced": 20,
    "reduction": 21,
}
PIXEL = torch.tensor([60, 100, 140], dtype=torch.uint8).view(1, 3, 1, 1)
IDS = torch.arange(0, 80, 10)
VIEWS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


@pytest.fixture(scope="module")
def batch(train_rows):
    cells = train_rows.cast_column("image", Image(decode=False))
    return torch.stack([decode_image(cells[row]["image"], SIZE) for row in range(0, 80, 10)])


@pytest.fixture
def view(monkeypatch):
    """Function that augments images with given draws in 0..1, one value per image; all others change nothing."""

    def run(images, ranges, **draws):
        table = torch.full((len(images), NUM_DRAWS), 0.5)
        for name in ("flip", "blurred", "reduced"):
            table[:, COLUMNS[name]] = 1
        for name, values in draws.items():
            table[:, COLUMNS[name]] = torch.tensor(values)
        monkeypatch.setattr(Augment, "draws", lambda self, ids, views: table)
        numbers = torch.arange(len(images))
        augment = Augment(replace(NOTHING, **ranges), 0)
        return augment(images, augment.views(numbers, numbers))

    return run


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=2e-2)


def test_a_quarter_turn_is_exact_in_both_directions(batch, view):
    found = view(batch[:3], {"rotate": 90}, rotate=[1, 0.5, 0])
    assert_equal(found[0], torch.rot90(batch[0], 1, (1, 2)))
    assert_equal(found[1], batch[1])
    assert_equal(found[2], torch.rot90(batch[2], -1, (1, 2)))


@pytest.mark.parametrize(("draw", "edge"), [(1, 32), (0, 8)])
def test_a_zoom_enlarges_or_reduces_by_the_power_of_two(view, draw, edge):
    square = F.pad(torch.full((1, 3, 16, 16), 200, dtype=torch.uint8), [24] * 4)
    image = view(square, {"zoom": 1, "background": 0}, zoom=[draw])[0, 0]
    assert image.sum() / 200 == pytest.approx(edge**2, rel=0.01)
    assert image[33 - edge // 2, 32] > 190


def test_a_shift_moves_by_a_share_of_the_edge_and_uncovers_the_background(batch, view):
    found = view(batch[:2], {"shift": 0.25, "background": 17}, right=[1, 0.5], down=[0.5, 0])
    quarter = SIZE // 4
    right = batch[0, :, :, quarter:]
    assert_equal(found[0], F.pad(right, (0, quarter), value=17))
    top = batch[1, :, :-quarter]
    assert_equal(found[1], F.pad(top, (0, 0, quarter, 0), value=17))


def test_a_flip_mirrors_left_and_right_below_its_probability(batch, view):
    found = view(batch[:2], {"flip": 0.5}, flip=[0.49, 0.51])
    assert_equal(found[0], batch[0].flip(2))
    assert_equal(found[1], batch[1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("brightness", [60 + 127.5, 100 + 127.5, 255]),
        ("contrast", [128 - 68 * 2**0.5, 128 - 28 * 2**0.5, 128 + 12 * 2**0.5]),
        ("saturation", [100 - 40 * 2**0.5, 100, 100 + 40 * 2**0.5]),
    ],
)
def test_colors_change_by_exact_amounts(view, name, expected):
    found = view(PIXEL, {name: 0.5}, **{name: [1.0]})
    assert_equal(found[0, :, 0, 0], torch.tensor(expected))


def test_a_tint_mixes_the_channels_and_keeps_the_background(view):
    found = view(PIXEL, {"tint": 0.1}, tint=[1.0])[0, :, 0, 0]  # the share of red in red
    red = 255 + (60 - 255) * (1 + 0.1 * 3**0.5)
    assert_equal(found, torch.tensor([red, 100, 140]))


def test_a_blur_takes_a_share_of_the_mean_of_nine_pixels(view):
    spots = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    spots[..., 3, 5] = 90
    found = view(spots, {"blur": 0.3}, blurred=[0.0, 0.31, 0.29], blur=[0.25, 1.0, 1.0])
    assert_equal(found[:, 0, 3, 5], torch.tensor([0.75 * 90 + 0.25 * 10, 90, 10]))
    assert_equal(found[:, 0, 2, 6], torch.tensor([0.25 * 10, 0, 10]))


def test_a_lower_resolution_averages_and_interpolates(view):
    spots = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8)
    spots[..., 3::8, 0::8] = 255  # not among the pixels in the middle of a block
    reduced, same = view(spots, {"downscale": 0.5}, reduced=[0.4, 0.6], reduction=[1.0, 1.0])
    assert reduced.mean().item() == pytest.approx(255 / 64, rel=0.02)
    assert reduced.max() < 30
    assert_equal(same, spots[1])


@pytest.fixture
def strong(batch):
    """The images in views that change them strongly."""
    augment = Augment(STRONG, seed=1)
    return augment(batch, augment.views(IDS, VIEWS))


def test_a_view_is_the_same_in_any_batch_and_under_autocast(batch, strong):
    augment = Augment(STRONG, seed=1)
    order = torch.tensor([6, 1, 4])
    with torch.autocast("cpu", torch.bfloat16):
        alone = augment(batch[order], augment.views(IDS[order], VIEWS[order]))
    torch.testing.assert_close(alone, strong[order])


# the processor rounds resized pixels
@pytest.mark.parametrize(("size", "tolerance"), [(SIZE, 1e-5), (48, 0.02)])
def test_normalization_equals_the_image_processor(batch, images, size, tolerance):
    processor = make_image_processor(size)
    expected = processor(images, return_tensors="pt")["pixel_values"]
    normalized = Normalize.from_processor(processor, size)(batch)
    assert normalized.shape == expected.shape
    assert (normalized - expected).abs().mean() < tolerance

from dataclasses import replace

import pytest
import torch
from datasets import Image

from tests.tiny import make_image_processor
from training.config import AugmentConfig
from training.data import decode_image
from training.data.transforms import Augment, Normalize

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
    paint=0.5,
    sketch=0.3,
)
NOTHING = AugmentConfig(zoom=0, stretch=0, shift=0, brightness=0, contrast=0, saturation=0)


@pytest.fixture(scope="module")
def batch(train_rows) -> torch.Tensor:
    cells = train_rows.cast_column("image", Image(decode=False))
    return torch.stack([decode_image(cells[row]["image"], 64) for row in range(0, 80, 10)])


IDS = torch.arange(0, 80, 10)
VIEWS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def test_view_is_the_same_in_any_batch(batch):
    augment = Augment(STRONG, seed=1)
    together = augment(batch, IDS, VIEWS)
    order = torch.tensor([6, 1, 4])
    torch.testing.assert_close(augment(batch[order], IDS[order], VIEWS[order]), together[order])
    for number in range(8):
        alone = augment(batch[number : number + 1], IDS[number : number + 1], VIEWS[number : number + 1])
        torch.testing.assert_close(alone, together[number : number + 1])


def test_views_differ_by_number_image_and_seed(batch):
    def view(seed: int, image_id: int, number: int) -> torch.Tensor:
        return Augment(STRONG, seed)(batch[:1], torch.tensor([image_id]), torch.tensor([number]))

    first = view(1, 5, 0)
    for other in (view(2, 5, 0), view(1, 6, 0), view(1, 5, 1)):
        assert (other - first).abs().mean() > 1


def test_ranges_of_zero_do_not_change_the_image(batch):
    torch.testing.assert_close(Augment(NOTHING, 0)(batch, IDS, VIEWS), batch.float(), rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        {"zoom": 0.4},
        {"rotate": 20},
        {"stretch": 0.4},
        {"shift": 0.1},
        {"flip": 1.0},
        {"brightness": 0.2},
        {"contrast": 0.5},
        {"saturation": 1.0},
        {"tint": 0.2},
        {"blur": 1.0},
        {"downscale": 1.0},
        {"paint": 1.0},
        {"sketch": 1.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_range_changes_the_image_and_keeps_values_in_range(batch, change):
    views = Augment(replace(NOTHING, **change), 0)(batch, IDS, VIEWS)
    assert (views - batch.float()).abs().mean() > 0.2
    assert views.min() >= 0 and views.max() <= 255


def test_flip_with_probability_1_mirrors_the_image(batch):
    views = Augment(replace(NOTHING, flip=1.0), 0)(batch, IDS, VIEWS)
    torch.testing.assert_close(views, batch.float().flip(3), rtol=0, atol=1e-2)


def test_downscaling_removes_detail_from_the_expected_share_of_images(batch):
    images = batch[:1].expand(400, -1, -1, -1)
    views = Augment(replace(NOTHING, downscale=0.3), 0)(images, torch.arange(400), torch.zeros(400, dtype=torch.long))
    detail = (views[..., 1:] - views[..., :-1]).square().mean((1, 2, 3))
    original = (batch[:1, ..., 1:].float() - batch[:1, ..., :-1].float()).square().mean()
    lost = detail < 0.9 * original
    assert 0.2 < lost.float().mean() < 0.4
    torch.testing.assert_close(views[~lost], images[~lost].float(), rtol=0, atol=1e-2)


@pytest.mark.parametrize("style", ["paint", "sketch"])
def test_a_style_redraws_the_expected_share_of_images(batch, style):
    images = batch[:1].expand(400, -1, -1, -1)
    augment = Augment(replace(NOTHING, **{style: 0.3}), 0)
    views = augment(images, torch.arange(400), torch.zeros(400, dtype=torch.long))
    changed = (views - images.float()).abs().mean((1, 2, 3)) > 0.5
    assert 0.2 < changed.float().mean() < 0.4
    assert len({round(view.std().item(), 2) for view in views[changed]}) > 1  # strokes differ in width
    torch.testing.assert_close(views[~changed], images[~changed].float(), rtol=0, atol=1e-2)


def test_autocast_does_not_change_views(batch):
    augment = Augment(STRONG, 0)
    with torch.autocast("cpu", torch.bfloat16):
        views = augment(batch, IDS, VIEWS)
    assert views.dtype == torch.float32 and torch.equal(views, augment(batch, IDS, VIEWS))


def test_warp_fills_with_the_background(batch):
    views = Augment(replace(NOTHING, shift=0.5, background=17), 0)(batch, IDS, VIEWS)
    edges = torch.stack([views[:, :, 0], views[:, :, -1], views[:, :, :, 0], views[:, :, :, -1]])
    # two of the four sides are uncovered in every image
    assert ((edges - 17).abs().amax((2, 3)) < 0.5).sum(0).ge(2).all()


def test_normalization_equals_the_image_processor_at_its_size(batch, images):
    processor = make_image_processor()
    expected = processor(images, return_tensors="pt")["pixel_values"]
    normalized = Normalize.from_processor(processor, 64)(batch)
    torch.testing.assert_close(normalized, expected, rtol=0, atol=1e-5)


def test_normalization_with_resizing_is_close_to_the_image_processor(batch, images):
    processor = make_image_processor(48)
    expected = processor(images, return_tensors="pt")["pixel_values"]
    normalized = Normalize.from_processor(processor, 48)(batch)
    assert normalized.shape == expected.shape
    assert (normalized - expected).abs().mean() < 0.02  # the processor rounds to integers after resizing

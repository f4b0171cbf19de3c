import pytest
import torch

from tests.tiny import IMAGE_SIZE, VIT, XLM_ROBERTA, make_model
from training.config import AugmentConfig, DataConfig, DistillRecipe, StudentConfig
from training.data import PairDataset
from training.data.mixing import mix_images
from training.data.transforms import Augment, Normalize
from training.tasks import DistillTask
from training.teachers.targets import LiveTargets, TargetSpec

NUM, SIZE = 400, 32
ROWS, VIEWS = torch.arange(NUM), torch.zeros(NUM, dtype=torch.long)


@pytest.fixture(scope="module")
def numbered() -> torch.Tensor:
    """Images of one value each: even ones 0, odd ones 1, so that a pixel is the weight of the odd one."""
    return (torch.arange(NUM) % 2).float()[:, None, None, None].expand(-1, 3, SIZE, SIZE)


def test_the_chosen_share_is_mixed_half_of_it_by_each_kind(numbered):
    mixed = mix_images(numbered, ROWS, VIEWS, 0.5, seed=0)
    changed = (mixed != numbered).flatten(1).any(1)
    blended = changed & (mixed.flatten(1).std(1) < 1e-6)
    replaced = changed & ~blended
    assert set(mixed[replaced].unique().tolist()) == {0.0, 1.0}
    assert 0.4 < changed.float().mean() < 0.55
    assert 0.4 < blended.float().sum() / changed.sum() < 0.65


def test_blends_have_uniform_weights_of_the_next_image(numbered):
    mixed = mix_images(numbered, ROWS, VIEWS, 1.0, seed=0)
    weight = (mixed - numbered).abs()[:, 0, 0, 0]
    weight = weight[mixed.flatten(1).std(1) < 1e-6]
    assert weight.min() < 0.05 and weight.max() > 0.95 and abs(weight.mean() - 0.5) < 0.06


def test_a_replaced_part_is_a_rectangle_of_the_next_image_at_its_place():
    images = torch.rand(NUM, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    mixed, others = mix_images(images, ROWS, VIEWS, 1.0, seed=0), images.roll(-1, 0)
    own, other = (mixed == images).all(1), (mixed == others).all(1)  # (NUM, SIZE, SIZE)
    replaced = (own | other).flatten(1).all(1) & other.flatten(1).any(1) & own.flatten(1).any(1)
    assert replaced.sum() > NUM / 4
    for mask in other[replaced]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns)
        assert all((edge.int().diff(prepend=torch.zeros(1)) > 0).sum() == 1 for edge in (rows, columns))


def test_mixtures_are_reproducible_and_differ_by_seed_and_view(numbered):
    first = mix_images(numbered, ROWS, VIEWS, 0.5, seed=0)
    assert torch.equal(mix_images(numbered, ROWS, VIEWS, 0.5, seed=0), first)
    assert not torch.equal(mix_images(numbered, ROWS, VIEWS, 0.5, seed=1), first)
    assert not torch.equal(mix_images(numbered, ROWS, VIEWS + 1, 0.5, seed=0), first)
    assert torch.equal(mix_images(numbered, ROWS, VIEWS, 0.0, seed=0), numbered)


@pytest.mark.slow
def test_student_and_teacher_see_the_same_mixed_images(train_rows, teacher):
    dataset = PairDataset(train_rows.select(range(6)), DataConfig(train="", in_memory=True), None, IMAGE_SIZE)
    batch = dataset.collate([(row, 0, 0, dataset[row]) for row in range(6)])
    batch.pop("skipped")
    seen: dict[str, torch.Tensor] = {}

    class Watched(LiveTargets):
        def images(self, images, batch):
            seen["teacher"] = images
            return super().images(images, batch)

    class WatchedNormalize(Normalize):
        def __call__(self, images):
            seen["student"] = images
            return super().__call__(images)

    learnt = {"tower": "vision", "target": "embedding", "mix": 1.0}
    recipe = DistillRecipe(output_dir="", teacher="x", student=StudentConfig(), data=dataset.config, **learnt)
    student = make_model(VIT, XLM_ROBERTA, seed=3)
    targets, augment = Watched(teacher, TargetSpec(("vision",))), Augment(AugmentConfig(), 0)
    normalize = WatchedNormalize.from_processor(teacher.image_processor, IMAGE_SIZE)
    task = DistillTask(student, augment, normalize, targets, recipe, 0, None)
    task(batch)
    assert torch.equal(seen["student"], seen["teacher"])
    assert not torch.allclose(seen["student"], task.augmented_images(batch))

"""A loss added from outside the package: one function and one row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from tests.tiny import IMAGE_SIZE, VIT, XLM_ROBERTA, make_model
from training.config import AlignRecipe, AugmentConfig, DataConfig
from training.data import CaptionTokenizer, PairDataset
from training.data.batch import Batch
from training.data.transforms import Augment, Normalize
from training.tasks import AlignTask
from training.tasks.loss_table import LOSSES, Loss, LossInputs
from training.teachers import TOWERS, Teacher
from training.teachers.targets import LiveTargets, TargetSource, TargetSpec

pytestmark = pytest.mark.slow


def spread_loss(inputs: LossInputs) -> Tensor:
    """Mean cosine between different images of the batch."""
    image = inputs.unit["image"]
    return (image @ image.T).triu(1).sum() / (len(image) * (len(image) - 1) / 2)


@dataclass(frozen=True, kw_only=True)
class SpreadRecipe(AlignRecipe):
    """A recipe with the weight of the toy loss.

    Args:
        spread_weight: Weight of the toy loss.
    """

    spread_weight: float = 0.0


@pytest.fixture
def register() -> Iterator[Callable[[Loss], None]]:
    """Add a row to the table for the time of a test."""
    before = list(LOSSES)
    yield LOSSES.append
    LOSSES[:] = before


@pytest.fixture(scope="module")
def dataset(train_rows, tokenizer) -> PairDataset:
    config = DataConfig(train="", in_memory=True)
    return PairDataset(train_rows.select(range(6)), config, CaptionTokenizer(tokenizer, 32), IMAGE_SIZE)


@pytest.fixture(scope="module")
def batch(dataset) -> Batch:
    batch = dataset.collate([(row, 0, 0, dataset[row]) for row in range(6)])
    batch.pop("skipped")
    return batch


def make_task(recipe: AlignRecipe, dataset: PairDataset, teacher: Teacher, has_teacher: bool = True) -> AlignTask:
    targets: TargetSource | None = LiveTargets(teacher, TargetSpec(TOWERS)) if has_teacher else None
    normalize = Normalize.from_processor(teacher.image_processor, IMAGE_SIZE)
    augment = Augment(AugmentConfig(), 0)
    return AlignTask(make_model(VIT, XLM_ROBERTA, seed=3), augment, normalize, targets, recipe, dataset.languages)


def make_recipe(dataset: PairDataset, **fields) -> SpreadRecipe:
    return SpreadRecipe(output_dir="", data=dataset.config, **fields)


def test_toy_loss_is_logged_and_weighted(register, dataset, batch, teacher):
    register(Loss("spread", spread_loss, weight="spread_weight"))
    recipe = make_recipe(dataset, spread_weight=0.25)
    losses = make_task(recipe, dataset, teacher).eval()(batch)
    without = make_task(replace(recipe, spread_weight=0.0), dataset, teacher).eval()(batch)
    assert losses.keys() - without.keys() == {"spread"} and losses["spread"].abs() > 1e-3
    torch.testing.assert_close(losses["loss"], without["loss"] + 0.25 * losses["spread"])


def test_toy_loss_per_language_and_in_parts(register, dataset, batch, teacher):
    def parts(inputs: LossInputs) -> dict[str, Tensor]:
        return {"one": inputs.unit["text"].mean(), "two": inputs.unit["text"].std()}

    register(Loss("parts", parts, weight="spread_weight", per_language=True))
    losses = make_task(make_recipe(dataset, spread_weight=0.5, contrastive_weight=0.0), dataset, teacher).eval()(batch)
    added = {f"parts_{part}_{language}" for part in ("one", "two") for language in ("en", "zh")}
    assert added <= losses.keys()
    torch.testing.assert_close(losses["loss"], 0.5 * sum(losses[name] for name in sorted(added)) / 2)


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"needs_teacher": True}, r"spread_weight is 0\.5, but there is no teacher"),
        ({"needs_two_languages": True}, r"spread_weight is 0\.5, but data\.batches is 'one_language'"),
    ],
)
def test_needs_of_a_toy_loss_are_checked(needs, message, register, dataset, teacher):
    register(Loss("spread", spread_loss, weight="spread_weight", **needs))
    recipe = make_recipe(dataset, spread_weight=0.5)
    recipe = replace(recipe, data=replace(recipe.data, batches="one_language"))
    with pytest.raises(ValueError, match=message):
        make_task(recipe, dataset, teacher, has_teacher=False)


def test_weight_in_extra_weights_needs_a_row(register, dataset, teacher):
    register(row := Loss("spread", spread_loss, weight="spread_weight"))
    recipe = AlignRecipe(output_dir="", data=dataset.config, extra_weights={"spread_weight": 0.5})
    assert row in make_task(recipe, dataset, teacher).losses
    recipe = replace(recipe, extra_weights={"spread": 0.5})
    with pytest.raises(ValueError, match=r"extra_weights names \['spread'\], but no loss has this weight"):
        make_task(recipe, dataset, teacher)

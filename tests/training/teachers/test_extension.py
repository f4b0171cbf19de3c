"""A family added from outside the package: one row makes it a teacher and a model for evaluation."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, CLIPProcessor, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from tests.tiny import IMAGE_SIZE, make_image_processor
from training.teachers import FAMILIES, Family, Teacher, TextPreparation

PATCH, WIDTH = 16, 12
GRID = IMAGE_SIZE // PATCH


class ToyConfig(PreTrainedConfig):
    """Config of a dual encoder with field names of its own."""

    model_type = "toy_dual_encoder"

    def __init__(self, num_tokens: int = 600, width: int = WIDTH, **fields):
        self.num_tokens, self.width = num_tokens, width
        super().__init__(**fields)


class ToyModel(PreTrainedModel):
    """A dual encoder with method and module names of its own."""

    config_class = ToyConfig

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.image_tower = nn.Conv2d(3, config.width, PATCH, PATCH)
        self.text_tower = nn.Embedding(config.num_tokens, config.width)
        self.text_head = nn.Linear(config.width, config.width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.post_init()

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        return self.image_tower(pixel_values)

    def encode_text(self, input_ids: Tensor) -> Tensor:
        return self.text_tower(input_ids)


def image_outputs(model: ToyModel, pixel_values: Tensor) -> SimpleNamespace:
    feature_map = model.encode_image(pixel_values)  # (B, D, H, W)
    return SimpleNamespace(last_hidden_state=feature_map, pooler_output=feature_map.mean((2, 3)))


def text_outputs(model: ToyModel, input_ids: Tensor, attention_mask: Tensor | None) -> SimpleNamespace:
    mask = (torch.ones_like(input_ids) if attention_mask is None else attention_mask)[:, :, None]  # (B, L, 1)
    states = model.encode_text(input_ids)
    pooled = (states * mask).sum(1) / mask.sum(1)
    return SimpleNamespace(last_hidden_state=states, pooler_output=model.text_head(pooled))


ROW = Family(
    model_class=ToyModel,
    tower_modules={"vision": ("image_tower", "image_head"), "text": ("text_tower", "text_head")},
    image_outputs=image_outputs,
    image_map=lambda model, outputs: outputs.last_hidden_state,
    text_outputs=text_outputs,
    vision_width=lambda config: config.width,
    text_width=lambda config: config.width,
    projection_dim=lambda config: config.width,
    image_size=lambda config: None,  # the image processor states it
    max_text_length=lambda config: 9,
    text_preparation=TextPreparation(8, clean=str.upper, stated_by="tests"),
    license="cc0-1.0",
)


@pytest.fixture(autouse=True)
def registered(monkeypatch) -> Iterator[None]:
    AutoConfig.register(ToyConfig.model_type, ToyConfig)
    AutoModel.register(ToyConfig, ToyModel)
    monkeypatch.setitem(FAMILIES, ToyConfig.model_type, ROW)
    yield
    CONFIG_MAPPING._extra_content.pop(ToyConfig.model_type)
    MODEL_MAPPING._extra_content.pop(ToyConfig)


@pytest.fixture
def folder(tokenizer, tmp_path) -> Path:
    torch.manual_seed(0)
    ToyModel(ToyConfig(len(tokenizer))).save_pretrained(tmp_path)
    CLIPProcessor(make_image_processor(), tokenizer).save_pretrained(tmp_path)
    return tmp_path


def test_toy_family_is_a_teacher(folder):
    teacher = Teacher.from_pretrained(str(folder))
    model = teacher.model
    assert isinstance(model, ToyModel)
    assert (teacher.image_size, teacher.projection_dim, teacher.license) == (IMAGE_SIZE, WIDTH, "cc0-1.0")
    pixel_values = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    images, texts = teacher.encode_images(pixel_values), teacher.encode_texts(**teacher.tokenize(["owl", "red frog"]))
    assert images.feature_map is not None and images.feature_map.shape == (2, WIDTH, GRID, GRID)
    torch.testing.assert_close(images.embedding, model.image_tower(pixel_values).mean((2, 3)))
    assert texts.feature_map is not None and texts.feature_map.shape[2] == texts.embedding.shape[1] == WIDTH
    with pytest.raises(ValueError, match="takes at most 9"):
        teacher.encode_texts(torch.ones(1, 10, dtype=torch.int64), torch.ones(1, 10, dtype=torch.int64))


@pytest.mark.parametrize(("tower", "module"), [("vision", "image_tower"), ("text", "text_tower")])
def test_toy_family_is_loaded_one_tower_at_a_time(folder, tower, module):
    teacher = Teacher.from_pretrained(str(folder), towers=(tower,))
    heads = {"vision": [], "text": ["text_head"]}
    assert [name for name, _ in teacher.model.named_children()] == [module, *heads[tower]]
    weights, projection = teacher.tower_weights(tower)
    assert weights.keys() == getattr(teacher.model, module).state_dict().keys()
    assert (projection is not None) == (tower == "text")

import pytest
import torch

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from tests.tiny import IMAGE_SIZE, NO_DROPOUT, TIMM_SWIN, VIT, WHOLE_MOBILENET, make_model, recipe_fields
from training import align
from training.config import AlignRecipe
from training.students import set_image_size
from training.teachers.preparation import square_image_processor

pytestmark = pytest.mark.slow

LARGER = IMAGE_SIZE + 32


@pytest.mark.parametrize("squash", [True, False])
def test_a_convolutional_student_takes_larger_images(processor, train_rows, squash):
    student = make_model(WHOLE_MOBILENET, seed=1)
    old = DCCLIPProcessor(square_image_processor(IMAGE_SIZE, [0.1, 0.2, 0.3], [0.4] * 3, squash), processor.tokenizer)
    new = set_image_size(student, old, LARGER)
    expected = square_image_processor(LARGER, [0.1, 0.2, 0.3], [0.4] * 3, squash)
    assert new.image_processor.to_dict() == expected.to_dict() and new.tokenizer is old.tokenizer
    assert student.config.image_size == LARGER and not student.training
    pixels = new(images=train_rows[:2]["image"], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, LARGER, LARGER)
    assert student.get_image_features(pixels).feature_map.shape[-1] == LARGER // 32
    assert student.config.vision_grid == [LARGER // 32] * 2


@pytest.mark.parametrize("tower", [VIT, TIMM_SWIN], ids=["vit", "swin"])
def test_a_tower_for_one_size_is_refused(processor, tower):
    student = make_model(tower)
    with pytest.raises(ValueError, match=rf"^image_size: {LARGER} pixels do not fit .* for {IMAGE_SIZE} pixels, or"):
        set_image_size(student, processor, LARGER)
    assert student.config.image_size == IMAGE_SIZE


def test_stage_2_writes_a_model_of_the_new_size(tmp_path, corpus, processor):
    make_model(WHOLE_MOBILENET, NO_DROPOUT, seed=1).save_pretrained(tmp_path / "student")
    processor.save_pretrained(tmp_path / "student")
    fields = recipe_fields(tmp_path / "out", corpus / "train.parquet", student=str(tmp_path / "student"), save_every=1)
    align.run(AlignRecipe(**fields, image_size=LARGER))
    model = DCCLIPModel.from_pretrained(tmp_path / "out")
    assert model.config.image_size == LARGER
    pixels = DCCLIPProcessor.from_pretrained(tmp_path / "out")(
        images=torch.zeros(3, 50, 90, dtype=torch.uint8), return_tensors="pt"
    )["pixel_values"]
    assert pixels.shape == (1, 3, LARGER, LARGER)
    with pytest.raises(ValueError, match="image_size"):
        align.run(AlignRecipe(**fields, image_size=IMAGE_SIZE, resume=True))

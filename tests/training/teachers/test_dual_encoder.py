import logging

import numpy as np
import pytest
import torch
from torchvision import transforms

from tests.tiny import IMAGE_SIZE
from tests.tiny_teachers import TEACHERS, save_teacher
from training.teachers import DualEncoder

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", TEACHERS)
def test_images_are_resized_as_in_clip_and_normalized_as_in_their_family(
    kind, tmp_path, tokenizer, images
):
    model = DualEncoder.from_pretrained(save_teacher(kind, tmp_path, tokenizer))
    own = model.image_processor
    wide = [images[number].resize((97 + 9 * number, 80)).convert("RGB") for number in range(3)]
    prepare = transforms.Compose(
        [
            transforms.Resize(IMAGE_SIZE, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(IMAGE_SIZE),
            transforms.ToTensor(),
            transforms.Normalize(own.image_mean, own.image_std),
        ]
    )
    expected = model.embed_images(torch.stack([prepare(image) for image in wide]))
    found = torch.from_numpy(model.encode_images(wide))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_equal_texts_have_equal_embeddings_in_the_order_of_the_texts(altclip, monkeypatch):
    monkeypatch.setattr(altclip, "texts_at_once", 2)
    texts = ["owl", "a red frog", "owl", "cat", "a red frog"]
    alone = {text: altclip.encode_texts([text])[0] for text in texts}
    found = altclip.encode_texts(texts)
    assert np.array_equal(found[[0, 1]], found[[2, 4]])
    np.testing.assert_allclose(found, [alone[text] for text in texts], atol=1e-5)


@pytest.fixture(scope="module")
def altclip(altclip_folder):
    return DualEncoder.from_pretrained(altclip_folder)


def test_models_that_return_tensors_are_teachers_too(altclip, monkeypatch):
    expected = altclip.encode_texts(["owl", "a red frog"])
    encode = altclip.model.get_text_features
    monkeypatch.setattr(
        altclip.model, "get_text_features", lambda **given: encode(**given).pooler_output
    )
    assert np.array_equal(altclip.encode_texts(["owl", "a red frog"]), expected)


def test_texts_that_are_too_long_are_cut_and_counted(altclip, caplog):
    with caplog.at_level(logging.WARNING):
        found = altclip.encode_texts(["owl", "owl " * 60, "owl " * 90], truncate=True)
    assert "2 of 3 texts are longer than 38 tokens and were cut" in caplog.text
    assert altclip.count_truncated(["owl", "owl " * 60, "owl " * 90]) == 2
    assert altclip.tokenize(["owl " * 90])["input_ids"].shape == (1, 38)
    np.testing.assert_allclose(found[1], found[2], atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=1e-3)
    with pytest.raises(ValueError, match="1 of 1 texts are longer than 38 tokens"):
        altclip.encode_texts(["owl " * 60])

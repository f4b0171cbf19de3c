import numpy as np
import pytest
import torch
from PIL import Image

from modeling_dcclip import DCCLIPProcessor


def test_images_and_texts_together_equal_images_and_texts_alone(processor, images, texts):
    both = processor(images=images, text=texts, return_tensors="pt")
    assert set(both) == {"pixel_values", "input_ids", "attention_mask"}
    assert torch.equal(
        both["pixel_values"], processor(images=images, return_tensors="pt")["pixel_values"]
    )
    assert torch.equal(both["input_ids"], processor(text=texts, return_tensors="pt")["input_ids"])


def test_saved_processor_loads_equal(processor, images, texts, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = DCCLIPProcessor.from_pretrained(tmp_path)
    expected, found = (
        p(images=images, text=texts, return_tensors="pt") for p in (processor, loaded)
    )
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


def test_files_are_prepared_as_opened_images(processor, images, tmp_path):
    gray = np.asarray(images[0].convert("L"))
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    transparent = images[0].convert("RGBA")
    transparent.putalpha(Image.fromarray(gray))
    for name, image in {
        "deep.png": deep,
        "transparent.png": transparent,
        "plain.png": images[0],
    }.items():
        image.save(tmp_path / name)
        expected = processor(images=image, return_tensors="pt")["pixel_values"]
        for path in (tmp_path / name, str(tmp_path / name), [[str(tmp_path / name)]]):
            assert torch.equal(
                processor(images=path, return_tensors="pt")["pixel_values"], expected
            )


def test_a_damaged_file_is_named(processor, tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"images: '.*damaged\.png' does not decode"):
        processor(images=str(tmp_path / "damaged.png"))

import pytest
import torch

from modeling_dcclip import DCCLIPProcessor


def test_saved_processor_loads_equal(processor, images, texts, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = DCCLIPProcessor.from_pretrained(tmp_path)
    expected, found = (
        p(images=images, text=texts, return_tensors="pt") for p in (processor, loaded)
    )
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


def test_files_are_prepared_as_opened_images(processor, images, tmp_path):
    path = tmp_path / "image.png"
    images[0].save(path)
    expected = processor(images=images[0], return_tensors="pt")["pixel_values"]
    for file in (path, str(path), [[str(path)]]):
        assert torch.equal(processor(images=file, return_tensors="pt")["pixel_values"], expected)


def test_a_damaged_file_is_named(processor, tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"images: '.*damaged\.png' does not decode"):
        processor(images=str(tmp_path / "damaged.png"))


def test_padding_is_on_by_default_and_can_be_turned_off(processor):
    lengths = [len(ids) for ids in processor(text=["a", "a longer text"])["input_ids"]]
    assert lengths[0] == lengths[1]
    lengths = [
        len(ids) for ids in processor(text=["a", "a longer text"], padding=False)["input_ids"]
    ]
    assert lengths[0] < lengths[1]


def test_an_empty_list_of_texts_raises_an_error(processor):
    with pytest.raises(ValueError, match="text: got an empty list"):
        processor(text=[])

import pytest
import torch


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


@pytest.mark.parametrize(("options", "is_padded"), [({}, True), ({"padding": False}, False)])
def test_padding_is_on_by_default_and_can_be_turned_off(processor, options, is_padded):
    first, second = processor(text=["a", "a longer text"], **options)["input_ids"]
    assert (len(first) == len(second)) == is_padded


@pytest.mark.parametrize("name", ["images", "text"])
def test_an_empty_list_raises_an_error(processor, name):
    with pytest.raises(ValueError, match=f"{name}: got an empty list"):
        processor(**{name: []})

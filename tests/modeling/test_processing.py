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


def test_padding_is_on_by_default_and_can_be_turned_off(processor):
    lengths = [len(ids) for ids in processor(text=["a", "a longer text"])["input_ids"]]
    assert lengths[0] == lengths[1]
    for options in ({"padding": False}, {"text_kwargs": {"padding": False}}):
        lengths = [
            len(ids) for ids in processor(text=["a", "a longer text"], **options)["input_ids"]
        ]
        assert lengths[0] < lengths[1]


def test_options_of_each_part_are_passed_to_it(processor, images):
    options = {
        "text_kwargs": {"padding": "max_length", "max_length": 20},
        "images_kwargs": {"do_rescale": False, "do_normalize": False},
    }
    found = processor(images=images[0], text="a", return_tensors="pt", **options)
    assert found["input_ids"].shape == (1, 20)
    assert found["pixel_values"].max() > 100


def test_an_option_given_twice_raises_an_error(processor):
    with pytest.raises(ValueError, match="padding was passed two times"):
        processor(text="a", padding=True, text_kwargs={"padding": False})


def test_an_option_of_a_wrong_type_raises_an_error_with_its_name(processor):
    with pytest.raises(Exception, match="do_resize"):
        processor(images=Image.new("RGB", (8, 8)), do_resize="yes")


def test_options_of_none_are_the_defaults(processor):
    found = processor(text=["a", "b c"], text_kwargs=None, images_kwargs=None)
    assert found == processor(text=["a", "b c"])


def test_an_empty_list_of_texts_raises_an_error(processor):
    with pytest.raises(ValueError, match="text: got an empty list"):
        processor(text=[])


def test_inputs_have_the_names_that_the_model_takes(processor, images):
    found = processor(images=images[0], text="a")
    assert set(found) == set(processor.model_input_names)

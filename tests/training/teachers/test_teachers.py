import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors.torch import load_file, save_file
from torch._inductor import config as inductor_config
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, T5Config

from tests.tiny import IMAGE_SIZE
from tests.tiny_teachers import (
    NUM_POSITIONS,
    PATCH_SIZE,
    TEACHERS,
    save_teacher,
)
from training.teachers import DualEncoder
from training.teachers.lineage import digest_folder, digest_tensors

GRID = IMAGE_SIZE // PATCH_SIZE
LENGTHS = (9, 4, 6)


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    """A checkpoint of every kind. Tests must not write into them."""
    return {kind: save_teacher(kind, tmp_path_factory.mktemp(kind), tokenizer) for kind in TEACHERS}


@pytest.fixture(scope="module")
def teachers(folders):
    return {kind: DualEncoder.from_pretrained(str(folder)) for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def tokens(tokenizer):
    """Three texts of different lengths, each ended by the last token id, where the tiny CLIP pools."""
    texts = [torch.arange(10 * row, 10 * row + length) + 5 for row, length in enumerate(LENGTHS)]
    for text in texts:
        text[-1] = len(tokenizer) - 1
    input_ids = pad_sequence(texts, batch_first=True, padding_value=tokenizer.pad_token_id)
    return {"input_ids": input_ids, "attention_mask": (input_ids > 4).long()}


@pytest.fixture(scope="module")
def pixel_values():
    return torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))


assert_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["altclip", "chinese_clip", "clip", "metaclip_2", "siglip"])
def test_the_image_map_is_after_the_final_norm_and_has_no_cls_token(kind, teachers, pixel_values):
    tower = teachers[kind].model.vision_model
    tokens = tower(pixel_values=pixel_values).last_hidden_state
    if kind != "siglip":  # the others normalize the CLS token alone
        tokens = tower.post_layernorm(tokens)[:, 1:]
    found = teachers[kind].image_targets(pixel_values).feature_map
    assert_close(found, tokens.movedim(1, 2).unflatten(2, (GRID, GRID)))


@torch.no_grad()
@pytest.mark.parametrize("kind", TEACHERS)
def test_embeddings_equal_those_of_the_familys_own_forward(
    kind, folders, teachers, tokens, tokenizer, pixel_values
):
    model = AutoModel.from_pretrained(folders[kind]).eval()
    texts = tokens
    if kind == "siglip":  # every text takes all positions
        padding = (0, NUM_POSITIONS - max(LENGTHS))
        texts = {"input_ids": F.pad(tokens["input_ids"], padding, value=tokenizer.pad_token_id)}
    output = model(**texts, pixel_values=pixel_values)
    image = teachers[kind].image_targets(pixel_values).embedding
    text = teachers[kind].text_targets(**tokens).embedding
    assert_close(F.normalize(image, dim=1), output.image_embeds)
    assert_close(F.normalize(text, dim=1), output.text_embeds)
    assert teachers[kind].logit_scale == pytest.approx(model.logit_scale.item())


@pytest.mark.parametrize("kind", TEACHERS)
def test_padding_does_not_change_a_text(kind, teachers, tokens, tokenizer):
    ids = F.pad(tokens["input_ids"], (0, 5), value=tokenizer.pad_token_id)
    mask = F.pad(tokens["attention_mask"], (0, 5))
    short = teachers[kind].text_targets(**tokens)
    long = teachers[kind].text_targets(ids, mask)
    assert_close(long.embedding, short.embedding)
    assert_close(long.feature_map[mask == 1], short.feature_map[tokens["attention_mask"] == 1])
    # equal embeddings would hide an error
    assert not torch.allclose(short.embedding[0], short.embedding[1], atol=1e-2)


@pytest.mark.parametrize("kind", TEACHERS)
def test_stated_sizes_are_those_of_the_targets(kind, teachers, tokens, pixel_values):
    teacher = teachers[kind]
    images = teacher.image_targets(pixel_values)
    texts = teacher.text_targets(**tokens)
    assert teacher.image_size == IMAGE_SIZE
    assert images.feature_map.shape[1] == teacher.vision_width
    assert texts.feature_map.shape == (3, max(LENGTHS), teacher.text_width)
    widths = {images.embedding.shape[1], texts.embedding.shape[1]}
    assert widths == {teacher.projection_dim}
    lengths = {"altclip": NUM_POSITIONS - 2, "dcclip": 32}
    assert teacher.max_text_length == lengths.get(kind, NUM_POSITIONS)


def test_a_student_learns_no_texts_that_are_longer_than_those_of_the_training(folders, monkeypatch):
    teacher = DualEncoder.from_pretrained(folders["chinese_clip"], ())
    monkeypatch.setattr(teacher.config.text_config, "max_position_embeddings", 512)
    monkeypatch.setattr(teacher.tokenizer, "model_max_length", 512)
    assert teacher.max_text_length == teacher.texts.max_length == 52


def test_a_teacher_keeps_its_precision_under_autocast(teachers, tokens, pixel_values):
    teacher = teachers["altclip"]
    image = teacher.image_targets(pixel_values)
    text = teacher.text_targets(**tokens)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher.image_targets(pixel_values).embedding, image.embedding)
        assert torch.equal(teacher.text_targets(**tokens).embedding, text.embedding)


@pytest.mark.slow  # compiles C++
def test_a_compiled_teacher_gives_the_same_targets_and_freezes_no_student(
    folders, teachers, tokens, pixel_values
):
    compiled = DualEncoder.from_pretrained(folders["clip"]).compile()
    image = teachers["clip"].image_targets(pixel_values)
    assert_close(compiled.image_targets(pixel_values).embedding, image.embedding)
    text = teachers["clip"].text_targets(**tokens)
    assert_close(compiled.text_targets(**tokens).embedding, text.embedding)
    assert not inductor_config.freezing


@pytest.mark.parametrize("kind", ["altclip", "siglip", "dcclip"])
def test_one_tower_equals_that_of_the_whole_teacher(kind, folders, teachers, tokens, pixel_values):
    vision = DualEncoder.from_pretrained(folders[kind], ("vision",))
    expected = teachers[kind].image_targets(pixel_values).embedding
    assert torch.equal(vision.image_targets(pixel_values).embedding, expected)
    text = DualEncoder.from_pretrained(folders[kind], ("text",))
    expected = teachers[kind].text_targets(**tokens).embedding
    assert torch.equal(text.text_targets(**tokens).embedding, expected)
    shared = vision.state_dict().keys() & text.state_dict().keys()
    assert shared <= {"logit_scale", "logit_bias"}


def test_a_tower_that_was_not_loaded_is_named(folders, tokens):
    vision = DualEncoder.from_pretrained(folders["clip"], ("vision",))
    with pytest.raises(ValueError, match=r"^towers: the text tower"):
        vision.text_targets(**tokens)


def test_one_tower_of_an_old_altclip_checkpoint_has_its_weights(
    folders, teachers, tokens, tmp_path
):
    folder = shutil.copytree(folders["altclip"], tmp_path / "old")
    # as BAAI/AltCLIP is stored: transformers renames them for classes of its own
    old = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        old[name.replace("roberta.encoder.layers.", "roberta.encoder.layer.")] = tensor
    assert any("roberta.encoder.layer." in name for name in old)
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    found = DualEncoder.from_pretrained(folder, ("text",)).text_targets(**tokens)
    assert torch.equal(found.embedding, teachers["altclip"].text_targets(**tokens).embedding)


def test_teachers_that_do_not_exist_or_are_of_no_family_are_refused(tmp_path):
    T5Config().save_pretrained(tmp_path)
    for name, message in {
        "no/where": "'no/where'",
        tmp_path: ".*'t5'.*altclip, chinese_clip",
    }.items():
        with pytest.raises(ValueError, match=f"^teacher: {message}"):
            DualEncoder.from_pretrained(name, (), field="teacher")


def revision_of(folder, *towers):
    return DualEncoder.from_pretrained(str(folder), towers).revision


def test_revision_of_a_folder_depends_on_its_weights_and_not_on_the_loaded_towers(
    folders, tmp_path
):
    folder = shutil.copytree(folders["clip"], tmp_path / "copy")
    revision = revision_of(folders["clip"])
    assert revision_of(folder, "text") == revision
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"][0, 0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert revision_of(folder, "text") != revision


def test_a_folder_without_weights_has_no_digest(tmp_path):
    with pytest.raises(ValueError, match=r"has no weights \(model\*\.safetensors or "):
        digest_folder(tmp_path)


def test_a_fingerprint_depends_on_the_names_of_the_weights():
    first, second = torch.tensor([1.0]), torch.tensor([2.0])
    digest = digest_tensors({"a": first, "b": second})
    assert digest == digest_tensors({"b": second, "a": first})
    assert digest != digest_tensors({"a": second, "b": first})


def test_a_hub_checkpoint_keeps_its_commit_when_there_is_a_newer_one(folders):
    cached = Path(HF_HUB_CACHE, "models--tiny--clip")
    first = "01234567" * 5
    second = "76543210" * 5
    for commit in (first, second):
        shutil.copytree(folders["clip"], cached / "snapshots" / commit)
    main = cached / "refs" / "main"
    main.parent.mkdir()
    main.write_text(first)
    teacher = DualEncoder.from_pretrained("tiny/clip", ())
    main.write_text(second)
    assert teacher.revision == first
    assert teacher.with_towers(("text",)).revision == first
    assert revision_of("tiny/clip") == second
    assert revision_of(f"tiny/clip@{first}") == first


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: tongyi\n---\n", "other: tongyi"),
        ("# no metadata\n", "creativeml-openrail-m"),
    ],
)
def test_license_is_from_the_card_or_else_from_the_family(metadata, expected, folders, tmp_path):
    folder = shutil.copytree(folders["altclip"], tmp_path / "copy")
    (folder / "README.md").write_text(metadata)
    assert DualEncoder.from_pretrained(str(folder), ()).license == expected


@pytest.mark.parametrize("kind", ["clip", "siglip"])  # transformers builds an empty one, or fails
def test_a_teacher_without_a_tokenizer_gives_image_targets_only(
    kind, folders, teachers, tmp_path, pixel_values
):
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    teacher = DualEncoder.from_pretrained(folder, towers=("vision",))
    expected = teachers[kind].image_targets(pixel_values).embedding
    assert torch.equal(teacher.image_targets(pixel_values).embedding, expected)
    with pytest.raises(ValueError, match=rf"model: .*{kind}' has no tokenizer"):
        _ = teacher.tokenizer

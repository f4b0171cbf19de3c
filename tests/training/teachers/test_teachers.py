import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AltCLIPModel, AutoModel, ByT5Tokenizer, Siglip2ImageProcessor, T5Config, T5Model

from modeling_dcclip import DCCLIPModel
from tests.tiny import IMAGE_SIZE, PROJECTION_DIM
from tests.tiny_teachers import NUM_POSITIONS, PATCH_SIZE, TEACHERS, make_teacher_model, save_teacher
from training.teachers import FAMILIES, TOWERS, Teacher, weights_fingerprint
from training.teachers.lineage import digest_folder
from training.teachers.targets import resample_map
from training.text.tokenizers import same_tokens

pytestmark = pytest.mark.slow

GRID = IMAGE_SIZE // PATCH_SIZE
LENGTHS = (9, 4, 6)
SUBSETS = [("vision",), ("text",), ()]


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of every kind. Tests must not write into them."""
    return {kind: save_teacher(kind, tmp_path_factory.mktemp(kind), tokenizer) for kind in TEACHERS}


@pytest.fixture(scope="module")
def teachers(folders) -> dict[str, Teacher]:
    return {kind: Teacher.from_pretrained(str(folder)) for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def tokens(tokenizer) -> dict[str, Tensor]:
    """Three texts of different lengths, each ended by the last token id, where the tiny CLIP pools."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(5, len(tokenizer) - 1, (len(LENGTHS), max(LENGTHS)), generator=generator)
    for row, length in enumerate(LENGTHS):
        input_ids[row, length - 1] = len(tokenizer) - 1
        input_ids[row, length:] = tokenizer.pad_token_id
    attention_mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return {"input_ids": input_ids, "attention_mask": attention_mask.long()}


@pytest.fixture(scope="module")
def pixel_values() -> Tensor:
    return torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))


def normed(hidden: Tensor, norm: nn.LayerNorm) -> Tensor:
    """LayerNorm, written out."""
    centred = hidden - hidden.mean(-1, keepdim=True)
    return centred / (hidden.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def assert_map(feature_map: Tensor, patches: Tensor):
    """The map (B, D, H, W) holds the patch tokens (B, H * W, D) row by row."""
    assert feature_map.shape == (len(patches), patches.shape[2], GRID, GRID)
    for row in range(GRID):
        for column in range(GRID):
            found = feature_map[:, :, row, column]
            torch.testing.assert_close(found, patches[:, GRID * row + column], rtol=1e-4, atol=1e-5)


def patchify(pixel_values: Tensor) -> Tensor:
    """The patches of NaFlex, cut out one by one."""
    patches = [
        pixel_values[:, :, row : row + PATCH_SIZE, column : column + PATCH_SIZE].permute(0, 2, 3, 1).flatten(1)
        for row in range(0, IMAGE_SIZE, PATCH_SIZE)
        for column in range(0, IMAGE_SIZE, PATCH_SIZE)
    ]
    return torch.stack(patches, 1)


def whole(tokens: dict[str, Tensor]) -> list[Tensor]:
    """The texts, one by one and without padding."""
    return [ids[None, :length] for ids, length in zip(tokens["input_ids"], LENGTHS, strict=True)]


def padded(input_ids: Tensor, tokenizer) -> Tensor:
    """To all positions of a SigLIP."""
    return F.pad(input_ids, (0, NUM_POSITIONS - input_ids.shape[1]), value=tokenizer.pad_token_id)


# images


@torch.no_grad()
@pytest.mark.parametrize("kind", ["altclip", "chinese_clip", "clip", "metaclip_2", "dual_clip_roberta"])
def test_clip_image_map_is_after_the_final_norm(kind, teachers, pixel_values):
    model = teachers[kind].model
    tower = model.vision_model
    hidden = tower.encoder(inputs_embeds=tower.pre_layrnorm(tower.embeddings(pixel_values))).last_hidden_state
    torch.testing.assert_close(tower(pixel_values=pixel_values).last_hidden_state, hidden)  # before the norm
    hidden = normed(hidden, tower.post_layernorm)
    targets = teachers[kind].encode_images(pixel_values)
    assert_map(targets.feature_map, hidden[:, 1:])
    torch.testing.assert_close(targets.embedding, hidden[:, 0] @ model.visual_projection.weight.T)


@torch.no_grad()
def test_siglip_image_map_has_no_cls_token_and_its_embedding_is_the_attention_pool(teachers, pixel_values):
    tower = teachers["siglip"].model.vision_model
    hidden = normed(
        tower.encoder(inputs_embeds=tower.embeddings(pixel_values)).last_hidden_state, tower.post_layernorm
    )
    targets = teachers["siglip"].encode_images(pixel_values)
    assert_map(targets.feature_map, hidden)
    torch.testing.assert_close(targets.embedding, tower.head(hidden))


@torch.no_grad()
def test_siglip2_images_are_cut_into_patches(teachers, pixel_values):
    tower = teachers["siglip2"].model.vision_model
    positions = tower.embeddings.position_embedding.weight  # of this very grid, so nothing is resampled
    embedded = (
        patchify(pixel_values) @ tower.embeddings.patch_embedding.weight.T + tower.embeddings.patch_embedding.bias
    )
    hidden = normed(tower.encoder(inputs_embeds=embedded + positions).last_hidden_state, tower.post_layernorm)
    targets = teachers["siglip2"].encode_images(pixel_values)
    assert_map(targets.feature_map, hidden)
    torch.testing.assert_close(targets.embedding, tower.head(hidden))


@torch.no_grad()
def test_siglip2_image_equals_that_of_its_image_processor(teachers, images):
    processor = teachers["siglip2"].image_processor
    assert isinstance(processor, Siglip2ImageProcessor)
    image = images[0].resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    expected = teachers["siglip2"].model.get_image_features(**processor(image, return_tensors="pt"))
    pixels = torch.from_numpy(np.array(image))[None] / 255  # (1, S, S, 3)
    pixels = (pixels - torch.tensor(processor.image_mean)) / torch.tensor(processor.image_std)
    targets = teachers["siglip2"].encode_images(pixels.permute(0, 3, 1, 2))
    torch.testing.assert_close(targets.embedding, expected.pooler_output, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_dual_encoder_image_map_of_a_vit_is_after_its_norm(teachers, pixel_values):
    model = teachers["dual_vit_bert"].model
    outputs = model.vision_model(pixel_values, output_hidden_states=True)
    norm = model.vision_model.layernorm
    targets = teachers["dual_vit_bert"].encode_images(pixel_values)
    assert_map(targets.feature_map, normed(outputs.hidden_states[-1], norm)[:, 1:])
    torch.testing.assert_close(targets.embedding, outputs.pooler_output @ model.visual_projection.weight.T)


@torch.no_grad()
def test_dual_encoder_image_map_of_a_convolutional_tower_is_its_output(teachers, pixel_values):
    model = teachers["dual_convnext_bert"].model
    outputs = model.vision_model(pixel_values)
    targets = teachers["dual_convnext_bert"].encode_images(pixel_values)
    assert targets.feature_map.shape == (2, 24, 2, 2)
    assert torch.equal(targets.feature_map, outputs.last_hidden_state)
    torch.testing.assert_close(targets.embedding, outputs.pooler_output @ model.visual_projection.weight.T)


def test_dual_encoder_whose_pooled_width_differs_from_its_map_raises(teachers, tokenizer, pixel_values):
    model = make_teacher_model("dual_convnext_bert", 600)
    model.config.vision_config.hidden_size = 25
    with pytest.raises(
        ValueError, match=r"'convnext'\) pools 25 channels, but its feature map of shape \(2, 24, 2, 2\)"
    ):
        Teacher(model, tokenizer, teachers["clip"].image_processor, "x").encode_images(pixel_values)


# texts


@torch.no_grad()
def test_altclip_text_map_is_projected_already(teachers, tokens):
    model = teachers["altclip"].model
    tower = model.text_model
    hidden = tower.roberta(**tokens).last_hidden_state
    expected = normed(hidden, tower.pre_LN) @ tower.transformation.weight.T + tower.transformation.bias
    targets = teachers["altclip"].encode_texts(**tokens)
    torch.testing.assert_close(targets.feature_map, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(targets.embedding, expected[:, 0] @ model.text_projection.weight.T)


@torch.no_grad()
@pytest.mark.parametrize("eos_token_id", [None, 2])
def test_clip_text_is_causal_and_pools_its_end(eos_token_id, teachers, tokens, tokenizer):
    teacher = teachers["clip"]
    if eos_token_id is not None:  # as in OpenAI's configs, where the end is the highest token id instead
        model = make_teacher_model("clip", len(tokenizer), eos_token_id=eos_token_id)
        teacher = Teacher(model, tokenizer, teacher.image_processor, "old")
    tower = teacher.model.text_model
    targets = teacher.encode_texts(**tokens)
    for row, ids in enumerate(whole(tokens)):
        length = ids.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)[None, None]  # (1, 1, L, L)
        hidden = tower.encoder(inputs_embeds=tower.embeddings(ids), attention_mask=mask).last_hidden_state
        expected = normed(hidden, tower.final_layer_norm)[0]
        torch.testing.assert_close(targets.feature_map[row, :length], expected, rtol=1e-4, atol=1e-5)
        projected = expected[-1] @ teacher.model.text_projection.weight.T
        torch.testing.assert_close(targets.embedding[row], projected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_chinese_clip_text_pools_its_first_token(teachers, tokens):
    model = teachers["chinese_clip"].model
    tower = model.text_model
    targets = teachers["chinese_clip"].encode_texts(**tokens)
    for row, ids in enumerate(whole(tokens)):
        expected = tower.encoder(tower.embeddings(ids)).last_hidden_state[0]
        torch.testing.assert_close(targets.feature_map[row, : len(expected)], expected, rtol=1e-4, atol=1e-5)
        projected = expected[0] @ model.text_projection.weight.T
        torch.testing.assert_close(targets.embedding[row], projected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_siglip_text_is_padded_to_its_full_length_and_attends_the_padding(kind, teachers, tokens, tokenizer):
    tower = teachers[kind].model.text_model
    embedded = tower.embeddings(padded(tokens["input_ids"], tokenizer))
    expected = normed(tower.encoder(inputs_embeds=embedded).last_hidden_state, tower.final_layer_norm)
    targets = teachers[kind].encode_texts(**tokens)
    torch.testing.assert_close(targets.feature_map, expected[:, : max(LENGTHS)], rtol=1e-4, atol=1e-5)
    pooled = expected[:, -1] @ tower.head.weight.T + tower.head.bias
    torch.testing.assert_close(targets.embedding, pooled, rtol=1e-4, atol=1e-5)
    # whatever a caller padded with
    other = {"input_ids": tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, 7)}
    assert torch.equal(teachers[kind].encode_texts(**tokens | other).embedding, targets.embedding)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dual_vit_bert", "dual_clip_roberta"])
def test_dual_encoder_text_embedding_is_the_projection_of_its_pooled_output(kind, teachers, tokens):
    model = teachers[kind].model
    tower, targets = model.text_model, teachers[kind].encode_texts(**tokens)
    hidden = tower(**tokens).last_hidden_state
    pooled = torch.tanh(hidden[:, 0] @ tower.pooler.dense.weight.T + tower.pooler.dense.bias)
    torch.testing.assert_close(targets.feature_map, hidden)
    torch.testing.assert_close(targets.embedding, pooled @ model.text_projection.weight.T, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_dcclip_targets_are_its_own_outputs(teacher, teacher_folder, inputs):
    model = DCCLIPModel.from_pretrained(teacher_folder).eval()
    tokens = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    image, text = model.get_image_features(inputs["pixel_values"]), model.get_text_features(**tokens)
    images, texts = teacher.encode_images(inputs["pixel_values"]), teacher.encode_texts(**tokens)
    # a teacher's memory is laid out for convolutions, which sum in another order
    torch.testing.assert_close(images.feature_map, image.feature_map, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(images.embedding, image.pooler_output, rtol=1e-4, atol=1e-3)
    assert torch.equal(texts.feature_map, text.last_hidden_state)
    assert torch.equal(texts.embedding, text.pooler_output)


# every family


@torch.no_grad()
@pytest.mark.parametrize("kind", TEACHERS)
def test_embeddings_equal_those_of_the_familys_own_forward(kind, folders, teachers, tokens, tokenizer, pixel_values):
    model = AutoModel.from_pretrained(folders[kind]).eval()
    texts, images = tokens, {"pixel_values": pixel_values}
    if kind in ("siglip", "siglip2"):
        texts = {"input_ids": padded(tokens["input_ids"], tokenizer)}
    if kind == "siglip2":
        shapes, mask = torch.tensor([[GRID, GRID]] * 2), torch.ones(2, GRID * GRID, dtype=torch.int64)
        images = {"pixel_values": patchify(pixel_values), "pixel_attention_mask": mask, "spatial_shapes": shapes}
    output = model(**texts, **images)
    image, text = teachers[kind].encode_images(pixel_values), teachers[kind].encode_texts(**tokens)
    torch.testing.assert_close(F.normalize(image.embedding, dim=1), output.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(F.normalize(text.embedding, dim=1), output.text_embeds, rtol=1e-4, atol=1e-5)
    assert teachers[kind].logit_scale == pytest.approx(model.logit_scale.item())


@pytest.mark.parametrize("kind", TEACHERS)
def test_padding_does_not_change_a_text(kind, teachers, tokens, tokenizer):
    longer = {
        "input_ids": F.pad(tokens["input_ids"], (0, 5), value=tokenizer.pad_token_id),
        "attention_mask": F.pad(tokens["attention_mask"], (0, 5)),
    }
    short, long = teachers[kind].encode_texts(**tokens), teachers[kind].encode_texts(**longer)
    attended = tokens["attention_mask"].bool()
    assert long.feature_map.shape[1] == short.feature_map.shape[1] + 5
    torch.testing.assert_close(long.embedding, short.embedding, rtol=1e-4, atol=1e-5)
    longer_map = long.feature_map[:, : attended.shape[1]]
    torch.testing.assert_close(longer_map[attended], short.feature_map[attended], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        short.embedding[0], short.embedding[1], atol=1e-2
    )  # equal embeddings would hide an error


@pytest.mark.parametrize("kind", TEACHERS)
def test_stated_widths_equal_those_of_the_targets(kind, teachers, tokens, pixel_values):
    teacher = teachers[kind]
    images, texts = teacher.encode_images(pixel_values), teacher.encode_texts(**tokens)
    assert images.feature_map.shape[1] == teacher.vision_width
    assert texts.feature_map.shape == (3, max(LENGTHS), teacher.text_width)
    assert images.embedding.shape[1] == texts.embedding.shape[1] == teacher.projection_dim
    assert teacher.projection_dim == (24 if "siglip" in kind else PROJECTION_DIM)
    assert teacher.image_size == IMAGE_SIZE


@pytest.mark.parametrize("kind", TEACHERS)
def test_longest_text_is_encoded_and_a_longer_one_raises(kind, teachers):
    teacher = teachers[kind]
    expected = {"altclip": NUM_POSITIONS - 2, "dual_clip_roberta": NUM_POSITIONS - 2, "dcclip": 32}
    assert teacher.max_text_length == expected.get(kind, NUM_POSITIONS)
    texts = torch.full((1, teacher.max_text_length + 1), 7)
    assert teacher.encode_texts(texts[:, 1:], torch.ones_like(texts[:, 1:])).embedding.isfinite().all()
    with pytest.raises(ValueError, match=rf"takes at most {teacher.max_text_length}\. Tokenize with truncation=True"):
        teacher.encode_texts(texts, torch.ones_like(texts))


def test_longest_text_is_bounded_by_the_tokenizer(teachers, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "model_max_length", 11)
    clip = teachers["clip"]
    assert Teacher(clip.model, tokenizer, clip.image_processor, "x").max_text_length == 11


# one tower at a time


@pytest.mark.parametrize("towers", SUBSETS)
@pytest.mark.parametrize("kind", TEACHERS)
def test_one_tower_equals_that_of_the_whole_teacher(kind, towers, folders, teachers, tokens, pixel_values, caplog):
    transformers.logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            part = Teacher.from_pretrained(str(folders[kind]), towers)
    finally:
        transformers.logging.disable_propagation()
    # no key is missing or unexpected; how a tiny config's special tokens fit its vocabulary is not the point here
    assert not [record.message for record in caplog.records if "token_id" not in record.message]
    loaded = {"vision": "visual_projection.", "text": "text_projection."}
    expected = {
        name
        for name in teachers[kind].state_dict()
        if name in ("logit_scale", "logit_bias")
        or name.startswith(tuple(f"{tower}_model." for tower in towers))
        or name.startswith(tuple(loaded[tower] for tower in towers))
    }
    assert set(part.state_dict()) == expected
    assert all(torch.equal(tensor, teachers[kind].state_dict()[name]) for name, tensor in part.state_dict().items())
    assert not [name for name, parameter in part.model.named_parameters() if parameter.device.type != "cpu"]
    assert part.towers == towers
    for field in ("projection_dim", "vision_width", "text_width", "image_size", "max_text_length", "logit_scale"):
        assert getattr(part, field) == getattr(teachers[kind], field)
    for tower in TOWERS:
        encode = {
            "vision": lambda teacher: teacher.encode_images(pixel_values),
            "text": lambda teacher: teacher.encode_texts(**tokens),
        }[tower]
        if tower in towers:
            found, whole_ones = encode(part), encode(teachers[kind])
            assert torch.equal(found.feature_map, whole_ones.feature_map)
            assert torch.equal(found.embedding, whole_ones.embedding)
        else:
            with pytest.raises(ValueError, match=rf"the {tower} tower of .* is not loaded\. Load it with"):
                encode(part)


@pytest.mark.parametrize("towers", [*SUBSETS, TOWERS])
def test_only_the_weights_of_the_given_towers_are_read(towers, folders, monkeypatch):
    read: set[str] = set()
    opened = transformers.modeling_utils.safe_open

    class Recorder:
        """A safetensors file that notes which tensors are read."""

        def __init__(self, *args, **kwargs):
            self.file = opened(*args, **kwargs)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __exit__(self, *args):
            return self.file.__exit__(*args)

        def get_slice(self, key):
            return Slice(self.file.get_slice(key), key)

    class Slice:
        def __init__(self, tensor, key):
            self.tensor, self.key = tensor, key

        def __getattr__(self, name):
            return getattr(self.tensor, name)

        def __getitem__(self, index):
            read.add(self.key)
            return self.tensor[index]

    monkeypatch.setattr(transformers.modeling_utils, "safe_open", Recorder)
    Teacher.from_pretrained(str(folders["clip"]), towers)
    prefixes = {"vision": ("vision_model.", "visual_projection."), "text": ("text_model.", "text_projection.")}
    expected = tuple(prefix for tower in towers for prefix in prefixes[tower])
    assert read == {
        key
        for key in load_file(folders["clip"] / "model.safetensors")
        if key == "logit_scale" or key.startswith(expected)
    }


def test_one_tower_of_an_old_altclip_checkpoint_has_its_weights(folders, teachers, tokens, tmp_path):
    folder = shutil.copytree(folders["altclip"], tmp_path / "old")
    weights = load_file(folder / "model.safetensors")
    # as BAAI/AltCLIP is stored: transformers renames them for classes of its own
    old = {
        name.replace("roberta.encoder.layers.", "roberta.encoder.layer."): tensor for name, tensor in weights.items()
    }
    assert any("roberta.encoder.layer." in name for name in old)
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    part = Teacher.from_pretrained(str(folder), ("text",))
    assert torch.equal(part.encode_texts(**tokens).embedding, teachers["altclip"].encode_texts(**tokens).embedding)


def test_checkpoint_that_lacks_weights_raises(folders, tmp_path):
    folder = shutil.copytree(folders["clip"], tmp_path / "cut")
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of a CLIPModel, such as 'text_projection\.weight'"):
        Teacher.from_pretrained(str(folder), ("text",))
    assert Teacher.from_pretrained(str(folder), ("vision",)).towers == ("vision",)


def test_with_towers_loads_the_same_checkpoint_again(folders, pixel_values):
    none = Teacher.from_pretrained(str(folders["clip"]), (), dtype=torch.bfloat16, device="meta")
    vision = none.with_towers(["vision"])
    assert (vision.towers, vision.name, vision.revision) == (("vision",), none.name, none.revision)
    assert {parameter.dtype for parameter in vision.model.parameters()} == {torch.bfloat16}
    assert {parameter.device.type for parameter in vision.model.parameters()} == {"meta"}
    assert vision.with_towers(("vision",)) is vision
    both = vision.with_towers(("text", "vision"))
    assert both.towers == TOWERS
    assert both.with_towers(("text",)).towers == ("text",)


def test_with_towers_of_a_model_in_memory(folders, teachers, tokenizer):
    part = teachers["clip"].with_towers(("text",))
    vision_processor = part.image_processor
    memory = Teacher(teachers["clip"].model, tokenizer, vision_processor, "x")
    assert memory.with_towers(("vision",)) is memory
    part = Teacher(part.model, tokenizer, vision_processor, "x", towers=("text",))
    assert part.with_towers(()) is part
    with pytest.raises(ValueError, match=r"'x' is a model in memory with the towers \('text',\)"):
        part.with_towers(("vision",))
    with pytest.raises(ValueError, match=r"the model of 'x' has no vision tower"):
        Teacher(part.model, tokenizer, vision_processor, "x")
    with pytest.raises(ValueError, match=r"towers: \['audio'\] are none of"):
        part.with_towers(("audio",))


# weights


@pytest.mark.parametrize("kind", ["altclip", "dcclip"])
def test_half_precision_checkpoint_is_loaded_in_the_given_precision(kind, tokenizer, teachers, pixel_values, tmp_path):
    folder = save_teacher(kind, tmp_path, tokenizer, torch.float16)
    assert load_file(folder / "model.safetensors")["visual_projection.weight"].dtype == torch.float16
    single = Teacher.from_pretrained(str(folder))
    assert {parameter.dtype for parameter in single.model.parameters()} == {torch.float32}
    half = Teacher.from_pretrained(str(folder), ("vision",), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    exact = teachers[kind].encode_images(pixel_values).embedding
    torch.testing.assert_close(single.encode_images(pixel_values).embedding, exact, rtol=0.02, atol=0.02)
    rough = half.encode_images(pixel_values).embedding
    assert rough.dtype == torch.bfloat16
    assert F.cosine_similarity(rough.float(), exact).min() > 0.99


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_teacher_is_frozen_and_stays_in_eval(kind, folders, tokens, pixel_values):
    teacher = Teacher.from_pretrained(str(folders[kind]))
    assert not [name for name, p in teacher.model.named_parameters() if p.requires_grad]
    before = weights_fingerprint(teacher.model)
    expected = teacher.encode_images(pixel_values).embedding, teacher.encode_texts(**tokens).embedding
    teacher.model.train()  # a mistake by the caller, without effect
    images = teacher.encode_images(pixel_values).embedding
    teacher.model.train()
    texts = teacher.encode_texts(**tokens).embedding
    assert not images.requires_grad
    assert torch.equal(images, expected[0])
    assert torch.equal(texts, expected[1])
    assert weights_fingerprint(teacher.model) == before


def test_fingerprint_depends_on_every_weight(teacher_folder):
    model = DCCLIPModel.from_pretrained(teacher_folder)
    before = weights_fingerprint(model)
    assert weights_fingerprint(DCCLIPModel.from_pretrained(teacher_folder)) == before
    with torch.no_grad():
        model.visual_projection.weight[3, 5] += 1e-3
    assert weights_fingerprint(model) != before


# lineage


def test_revision_of_a_folder_depends_on_its_weights_and_not_on_the_loaded_towers(folders, tmp_path):
    folder = shutil.copytree(folders["clip"], tmp_path / "copy")
    revision = Teacher.from_pretrained(str(folders["clip"]), ()).revision
    assert Teacher.from_pretrained(str(folder), ("text",)).revision == revision
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"][0, 0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert Teacher.from_pretrained(str(folder), ("text",)).revision != revision
    with pytest.raises(ValueError, match=r"has no weights \(model\*\.safetensors or pytorch_model\*\.bin\)"):
        digest_folder(tmp_path)


def test_revision_of_a_model_in_memory_is_its_fingerprint_unless_given(teachers, tokenizer):
    clip = teachers["clip"]
    assert Teacher(clip.model, tokenizer, clip.image_processor, "x").revision == weights_fingerprint(clip.model)
    assert Teacher(clip.model, tokenizer, clip.image_processor, "x", revision="abc").revision == "abc"


def test_hub_checkpoint_has_its_commit_and_the_licence_of_its_card(folders, tokens):
    commits = ["0123456789abcdef0123456789abcdef01234567", "76543210fedcba9876543210fedcba9876543210"]
    cached = Path(HF_HUB_CACHE, "models--tiny--clip")
    for commit in commits:
        shutil.copytree(folders["clip"], cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commits[0])
    teacher = Teacher.from_pretrained("tiny/clip", ())
    assert teacher.revision == commits[0]
    assert teacher.license is None  # no card in the cache, and offline
    (cached / "snapshots" / commits[1] / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    (cached / "refs" / "main").write_text(commits[1])
    assert teacher.with_towers(("text",)).revision == commits[0]  # the same, though there is a newer one
    newer = Teacher.from_pretrained("tiny/clip", ())
    assert (newer.revision, newer.license) == (commits[1], "mit")
    assert Teacher.from_pretrained("tiny/clip", (), revision=commits[0]).revision == commits[0]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: tongyi\n---\n", "tongyi"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: [clip]\n---\n", "creativeml-openrail-m"),
        ("# no metadata\n", "creativeml-openrail-m"),
    ],
)
def test_licence_is_from_the_card_or_else_from_the_family(metadata, expected, folders, tmp_path):
    folder = shutil.copytree(folders["altclip"], tmp_path / "copy")
    (folder / "README.md").write_text(metadata)
    assert Teacher.from_pretrained(str(folder), ()).license == expected


def test_licence_without_a_card(teachers):
    assert teachers["altclip"].license == "creativeml-openrail-m"
    assert teachers["dcclip"].license == "apache-2.0"  # of its own teacher
    assert teachers["clip"].license is None


# errors


def test_unknown_family_raises_with_the_known_ones(tmp_path, tokenizer):
    config = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=1, vocab_size=20)
    T5Model(config).save_pretrained(tmp_path)
    known = (
        r"family 't5'; supported are altclip, chinese_clip, clip, dcclip, fgclip2, metaclip_2, open_clip, siglip, "
        r"siglip2, vision-text-dual-encoder, and encoders of images or texts alone"
    )
    with pytest.raises(ValueError, match=known):
        Teacher.from_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=known):
        Teacher(T5Model(config), tokenizer, None, "x")


def test_key_of_each_family_is_its_model_type():
    classes = {name: row.model_class for name, row in FAMILIES.items() if not isinstance(row.model_class, str)}
    assert {name: model_class.config_class.model_type for name, model_class in classes.items()} == {
        name: name for name in classes
    }
    assert FAMILIES.keys() - classes.keys() == {"fgclip2"}  # the class is beside the weights


@pytest.mark.parametrize("name", ["no/where", "no/where/at/all"])
def test_unknown_teacher_raises_with_its_name(name):
    with pytest.raises(ValueError, match=rf"teacher: '{name}' is neither a folder with a config\.json nor on the Hub"):
        Teacher.from_pretrained(name)


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])  # transformers builds an empty one, or fails
def test_a_teacher_without_a_tokenizer_gives_image_targets_only(kind, folders, tmp_path, pixel_values):
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    teacher, whole = (Teacher.from_pretrained(str(path), towers=("vision",)) for path in (folder, folders[kind]))
    assert torch.equal(teacher.encode_images(pixel_values).embedding, whole.encode_images(pixel_values).embedding)
    for read in (lambda: teacher.tokenizer, lambda: teacher.max_text_length):
        with pytest.raises(ValueError, match=rf"teacher: .*{kind}' has no tokenizer. .* under teachers"):
            read()


# fixtures and tokenizers


def test_altclip_fixture_is_the_whole_model(altclip_folder, inputs):
    model = AltCLIPModel.from_pretrained(altclip_folder).eval()
    teacher = Teacher.from_pretrained(str(altclip_folder))
    assert weights_fingerprint(teacher.model) == weights_fingerprint(model)
    assert teacher.encode_images(inputs["pixel_values"]).feature_map.shape == (8, 24, GRID, GRID)


def test_same_tokens_compares_whole_pipelines(tokenizer, other_tokenizer, teacher):
    assert same_tokens(tokenizer, tokenizer)
    assert same_tokens(tokenizer, teacher.tokenizer)  # saved and loaded
    assert not same_tokens(tokenizer, other_tokenizer)


def test_padding_or_truncation_does_not_change_the_identity_of_a_tokenizer(tokenizer, teacher):
    teacher.tokenizer(["red apple", "frog"], padding=True, truncation=True, max_length=3)
    assert same_tokens(tokenizer, teacher.tokenizer)


def test_tokenizer_without_a_pipeline_equals_only_itself(tokenizer):
    byte_tokens = ByT5Tokenizer()
    assert same_tokens(byte_tokens, byte_tokens)
    assert not same_tokens(byte_tokens, ByT5Tokenizer())
    assert not same_tokens(tokenizer, byte_tokens)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_in_half_precision_are_resampled(dtype):
    feature_map = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    resampled = resample_map(feature_map.to(dtype), (4, 4))
    assert resampled.dtype == dtype
    torch.testing.assert_close(resampled.float(), resample_map(feature_map, (4, 4)), atol=0.01, rtol=0)


def test_a_teacher_computes_in_the_precision_of_its_weights(altclip_folder):
    teacher = Teacher.from_pretrained(str(altclip_folder))
    pixels = torch.rand(2, 3, teacher.image_size, teacher.image_size)
    texts = teacher.tokenize(["a frog", "青蛙"])
    expected = teacher.encode_images(pixels).embedding, teacher.encode_texts(**texts).embedding
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = teacher.encode_images(pixels).embedding, teacher.encode_texts(**texts).embedding
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])

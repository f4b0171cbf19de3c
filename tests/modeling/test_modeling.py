import pytest
import torch

from modeling_dcclip import (
    DCCLIPModel,
)
from tests.tiny import (
    BERT,
    CUT_EFFICIENTNET,
    MAX_TEXT_LENGTH,
    MOBILENET,
    RESNET,
    TIMM_SWIN,
    VIT,
    XLM_ROBERTA,
    make_model,
)

TEXTS = {"xlm-roberta": XLM_ROBERTA, "bert": BERT}
VISIONS = {
    "mobilenet": MOBILENET,
    "cut efficientnet": CUT_EFFICIENTNET,
    "vit": VIT,
    "resnet": RESNET,
    "swin": TIMM_SWIN,
}


@pytest.fixture(scope="module")
def model():
    return make_model(MOBILENET)


def test_a_model_has_no_weights_without_a_use():
    names = [*make_model(VIT, BERT).state_dict()]
    assert not [name for name in names if ".pooler." in name]
    towers = ("vision_model.", "text_model.")
    others = {name for name in names if not name.startswith(towers)}
    assert others == {"logit_scale", "visual_projection.weight", "text_projection.weight"}


@torch.no_grad()
def test_logits_are_scaled_cosines_and_the_loss_is_info_nce(model, inputs):
    output = model(**inputs, return_loss=True)
    for embeddings in (output.image_embeds, output.text_embeds):
        torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(len(embeddings)))
    logits = model.logit_scale.exp() * output.image_embeds @ output.text_embeds.T
    torch.testing.assert_close(output.logits_per_image, logits)
    assert torch.equal(output.logits_per_text, output.logits_per_image.T)
    expected = (logits.logsumexp(1) + logits.logsumexp(0)) / 2 - logits.diag()
    torch.testing.assert_close(output.loss, expected.mean())


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("text", TEXTS)
def test_padding_does_not_change_the_text_embedding(text, pooling, processor, texts):
    model = make_model(VIT, TEXTS[text], text_pooling=pooling)
    options = {"padding": "max_length", "max_length": MAX_TEXT_LENGTH}
    padded = processor(text=texts, return_tensors="pt", **options)
    batches = [padded, {"input_ids": padded["input_ids"]}]
    if text == "xlm-roberta":  # BERT counts positions from the left edge
        batches.append(processor(text=texts, padding_side="left", return_tensors="pt"))
    alone = [processor(text=[each], return_tensors="pt") for each in texts]
    expected = torch.cat([model.get_text_features(**each).pooler_output for each in alone])
    for tokens in batches:
        found = model.get_text_features(**tokens).pooler_output
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("vision", VISIONS)
def test_saved_model_loads_bit_exact(vision, inputs, tmp_path):
    model = make_model(VISIONS[vision])
    model.save_pretrained(tmp_path)
    loaded = DCCLIPModel.from_pretrained(tmp_path).eval()
    # also those that are not saved, such as position ids; loading must recreate them
    assert all(map(torch.equal, loaded.buffers(), model.buffers()))
    assert torch.equal(loaded(**inputs).logits_per_image, model(**inputs).logits_per_image)
    assert loaded.config.vision_grid == model.config.vision_grid


def test_text_longer_than_the_maximum_raises_an_error(model):
    tokens = torch.full((1, MAX_TEXT_LENGTH + 1), 5)
    with pytest.raises(ValueError, match=r"input_ids has 33 tokens per text.* at most 32"):
        model.get_text_features(tokens)
    model.get_text_features(tokens[:, 1:])  # the maximum length


@torch.no_grad()
def test_truncate_dim_returns_leading_dimensions(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    short = DCCLIPModel.from_pretrained(tmp_path, truncate_dim=6).eval()
    expected = model(**inputs)
    found = short(**inputs)
    for name in ("image_embeds", "text_embeds"):
        leading = torch.nn.functional.normalize(expected[name][:, :6], dim=-1)
        torch.testing.assert_close(found[name], leading)

"""Every loss of stage 2 at several widths of the embedding."""

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import IMAGE_SIZE, VIT, XLM_ROBERTA, make_model
from training.config import AlignRecipe, AugmentConfig, DataConfig
from training.data import CaptionTokenizer, PairDataset
from training.data.transforms import Augment, Normalize
from training.engine.rotation import rotate
from training.tasks import AlignTask
from training.tasks.losses import info_nce, positives
from training.teachers import TOWERS
from training.teachers.targets import LiveTargets, TargetSpec

WIDTHS = [4, 8, 16]

pytestmark = pytest.mark.slow


def test_losses_are_means_over_widths_in_the_rotated_space(train_rows, tokenizer, teacher):
    config = DataConfig(train="", in_memory=True, caption_columns={"en": "en"})
    dataset = PairDataset(train_rows.select(range(6)), config, CaptionTokenizer(tokenizer, 32), IMAGE_SIZE)
    batch = dataset.collate([(row, 0, 0, dataset[row]) for row in range(6)])
    batch.pop("skipped")
    student = make_model(VIT, XLM_ROBERTA, seed=3, prefixes=WIDTHS)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).Q
    rotate(student, rotation)
    recipe = AlignRecipe(output_dir="", data=config, language_weights={"en": 1.0}, anchor_weight=1.0)
    normalize = Normalize.from_processor(teacher.image_processor, IMAGE_SIZE)
    targets, augment = LiveTargets(teacher, TargetSpec(TOWERS)), Augment(AugmentConfig(), 0)
    task = AlignTask(student, augment, normalize, targets, recipe, dataset.languages).eval()
    losses, outputs = task(batch), task(batch, encode_only=True)
    anchors = task.teacher_embeddings(batch)
    positive = positives(batch["owner"], batch["caption_ids"], 6, batch["rows"])
    expected, distances = [], []
    for width in WIDTHS:
        image, text = (F.normalize(outputs[name][:, :width], dim=-1) for name in ("image", "text"))
        expected.append(info_nce(image, text, outputs["logit_scale"], positive))
        distances.append(1 - F.cosine_similarity(image, (anchors["vision"] @ rotation)[:, :width]).mean())
    torch.testing.assert_close(losses["contrastive_en"], torch.stack(expected).mean())
    torch.testing.assert_close(losses["anchor_image"], torch.stack(distances).mean())
    total = losses["contrastive_en"] + losses["anchor_image"] + losses["anchor_text"]
    torch.testing.assert_close(losses["loss"], total)

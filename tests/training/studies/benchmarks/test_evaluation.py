import json
from functools import partial

import pytest
import torch
from transformers import AutoModel, CLIPConfig, CLIPImageProcessor

from training.studies.benchmarks.evaluation import PROGRAM, main
from training.studies.benchmarks.measure_evaluation import RANDOM_MODELS, EvaluationBenchmark
from training.studies.benchmarks.options import EvaluationOptions

pytestmark = pytest.mark.slow


def test_encoding_is_compared_with_the_bare_forward_pass(corpus, teacher_folder, tmp_path, capsys):
    main(
        [
            *("--data", str(corpus / "train.parquet"), "--model", str(teacher_folder)),
            *("--images", "24", "--batch_size", "8", "--repeats", "2", "--output_dir", str(tmp_path)),
        ]
    )
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    rates = {row["metric"]: row["value"] for row in written["rows"]}
    assert set(rates) == {"bare_images_per_s", "images_per_s", "share_of_bare"}
    assert all(value > 0 for value in rates.values()) and written["meta"]["images"] == 24
    assert "% of the bare forward pass" in capsys.readouterr().out


def test_model_with_random_weights_needs_no_folder(corpus, monkeypatch):
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = CLIPConfig(vision_config=tower | {"image_size": 32}, text_config=tower, projection_dim=16)
    processor = partial(CLIPImageProcessor, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    monkeypatch.setitem(RANDOM_MODELS, "clip-vit-b-32", (lambda: config, processor))
    options = EvaluationOptions(data=str(corpus / "train.parquet"), images=8, repeats=1, model=["clip-vit-b-32"])
    results = EvaluationBenchmark(options, PROGRAM).measure()
    assert {row.model for row in results.rows} == {"clip-vit-b-32"}


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_models_with_random_weights_have_their_published_size(name):
    config, image_processor = RANDOM_MODELS[name]
    with torch.device("meta"):
        model = AutoModel.from_config(config())
    published = {"clip-vit-b-32": 151.3e6, "chinese-clip-vit-b-16": 188e6}
    assert model.num_parameters() == pytest.approx(published[name], rel=0.005)
    assert image_processor().crop_size["height"] == config().vision_config.image_size == 224

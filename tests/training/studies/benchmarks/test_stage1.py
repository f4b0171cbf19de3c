import pytest
from transformers import AltCLIPConfig

from training.config import DistillRecipe
from training.studies.benchmarks import measure_stage1
from training.studies.benchmarks.measure_stage1 import Stage1Benchmark
from training.studies.benchmarks.options import Stage1Options
from training.studies.benchmarks.peak import peak_of as measure_peak
from training.studies.benchmarks.stage1 import PROGRAM
from training.utils.results import Results

pytestmark = pytest.mark.slow


@pytest.fixture
def small(monkeypatch):
    """Replace the teacher by a small one of the same classes and image size, and measure one size only."""
    vision = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AltCLIPConfig(
        vision_config=vision | {"image_size": 224, "patch_size": 32},
        text_config=text | {"vocab_size": 3000, "project_dim": 64},
        projection_dim=768,
    )
    monkeypatch.setattr(measure_stage1, "altclip_config", lambda: config)
    monkeypatch.setattr(measure_stage1, "SIZES", ("tiny",))


def test_rates_and_memory_are_measured_in_one_run(small, corpus, tmp_path, monkeypatch):
    measured: dict[str, tuple[int, int]] = {}

    def peak_of(stage: str, recipe: DistillRecipe) -> tuple[int, int]:
        """Measure one process, and return its memory for both towers."""
        found = next(iter(measured.values())) if measured else measure_peak(stage, recipe)
        return measured.setdefault(recipe.tower, found)

    monkeypatch.setattr(measure_stage1, "peak_of", peak_of)
    options = Stage1Options(
        data=str(corpus / "train.parquet"),
        num_images=4,
        batch_size=2,
        loop_batch_size=2,
        loop_steps=1,
        memory_batch_size=2,
        output_dir=str(tmp_path),
    )
    Stage1Benchmark(options, PROGRAM).run()
    rows = {row.metric: row.value for row in Results.read(tmp_path / "results.json").rows}
    assert rows["cached_over_live"] == pytest.approx(rows["cached_images_per_s"] / rows["live_images_per_s"], rel=1e-2)
    assert rows["loop_over_bare"] > 0
    assert [*measured] == ["vision", "text"]
    for tower in measured:
        assert 2e8 < rows[f"peak_bytes_{tower}"] < 4e9  # the lower bound is less than what torch alone takes
        assert rows[f"allowed_bytes_{tower}"] > 1.5e9
    assert not (tmp_path / "teacher").exists()

import json

import pytest

from training.config import AlignRecipe
from training.studies.benchmarks import measure_stage2, stage2
from training.studies.benchmarks.measure_stage2 import MIB
from training.studies.benchmarks.options import Stage2Options
from training.studies.benchmarks.peak import peak_of as measure_peak
from training.utils.results import Results

pytestmark = pytest.mark.slow

OPTIONS = ["--image_size", "64", "--batch_size", "4", "--steps", "1", "--rounds", "1"]
MEMORY = ["--memory_batches", "8", "16", "--chunk_size", "4", "--memory_steps", "1", "--memory_image_size", "64"]

GROWTH = 30


@pytest.fixture
def measure(corpus, tmp_path, monkeypatch):
    """Run the benchmark. The memory of the second batch size is derived from the process of the first."""
    measured: list[tuple[int, int]] = []

    def peak_of(stage: str, recipe: AlignRecipe) -> tuple[int, int]:
        if measured:
            loaded, peak = measured[0]
            measured.append((loaded, peak + GROWTH * MIB))
        else:
            measured.append(measure_peak(stage, recipe))
        return measured[-1]

    monkeypatch.setattr(measure_stage2, "peak_of", peak_of)

    def run() -> dict[tuple[str, str], float]:
        data = ["--data", str(corpus / "train.parquet"), "--output_dir", str(tmp_path / "stage2")]
        stage2.main([*OPTIONS, *MEMORY, *data])
        rows = Results.read(tmp_path / "stage2/results.json").rows
        assert [path.name for path in (tmp_path / "stage2").iterdir()] == ["results.json"]
        return {(row.model, row.metric): row.value for row in rows}

    return run


def test_memory_is_the_sum_of_its_parts_and_growth_is_a_ratio(measure, monkeypatch, tmp_path):
    monkeypatch.setattr(measure_stage2, "open_clip_rate", lambda *arguments: 10.0)
    found = measure()
    above = []
    for batch in (8, 16):
        parts = {name: found[f"batch {batch}, chunk 4", f"{name}_mib"] for name in ("loaded", "total", "above")}
        pixels = found[f"batch {batch}, chunk 4", "pixels_mib"]
        matrix = found[f"batch {batch}, chunk 4", "similarities_mib"]
        assert pixels == pytest.approx(batch * 3 * 64 * 64 / 2**20, abs=1e-3) and matrix >= 0
        assert parts["above"] == pytest.approx(parts["total"] - parts["loaded"] - pixels - matrix, abs=0.1)
        assert 200 < parts["loaded"] < parts["total"] < 4000  # the lower bound is less than what torch alone takes
        above.append(parts["above"])
    assert above[1] - above[0] == pytest.approx(GROWTH - (8 * 3 * 64 * 64 + 8 * (16**2 - 8**2)) / 2**20, abs=0.1)
    assert found["gradient caching", "memory_growth"] == pytest.approx(above[1] / above[0], rel=1e-2)
    assert found["ours", "rate_over_open_clip"] == pytest.approx(found["ours", "images_per_s"] / 10.0, rel=1e-2)
    meta = json.loads((tmp_path / "stage2/results.json").read_text(encoding="utf-8"))["meta"]
    assert meta["command"].startswith("python -m training.studies.benchmarks.stage2 --data ")


def test_open_clip_trains_the_same_towers(tmp_path, corpus):
    pytest.importorskip("open_clip_train", reason="the extra `bench` is not installed")
    options = Stage2Options(image_size=64, memory_batches=[8], output_dir=str(tmp_path))
    benchmark = measure_stage2.Stage2Benchmark(options, stage2.PROGRAM)
    benchmark.images = corpus / "train.parquet"
    benchmark.save_student(64)
    assert measure_stage2.open_clip_rate(tmp_path / "student", measure_stage2.BACKBONE, benchmark.images, 64, 4, 2) > 0

"""Model folders in the layout of open_clip give the embeddings of transformers."""

import json
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value

from tests.tiny import MOBILENET, make_model, save_student
from training import export
from training.edge import verdict
from training.utils.results import Results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(processor, tmp_path_factory) -> Path:
    """A finished model folder without exports. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("layouts") / "dcclip-tiny"
    save_student(folder, make_model(MOBILENET, seed=3), processor)
    return folder


@pytest.fixture
def export_layout(finished, images, tmp_path):
    """Export to open_clip's layout with images of various shapes and names in both languages."""
    sizes = [(97, 64), (64, 99), (201, 133), (150, 101)]
    names = [{"en": f"thing {row}", "zh": f"东西 {row}"} for row in range(len(sizes))]
    (tmp_path / "names.json").write_text(json.dumps(names), encoding="utf-8")
    resized = [image.resize(size) for image, size in zip(images, sizes, strict=False)]
    features = Features({"image": Image(), "label": Value("string")})
    rows = {"image": resized, "label": [entry["en"] for entry in names]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data.parquet")

    def run(model: Path = finished) -> Path:
        data = ["--data", str(tmp_path / "data.parquet")]
        data += ["--class_names", str(tmp_path / "names.json"), "--format", "open_clip"]
        export.main([str(model), "--output_dir", str(tmp_path / "folder"), *data])
        return tmp_path / "folder"

    return run


def test_a_layout_equals_transformers_in_both_languages(export_layout, capsys):
    folder = export_layout()
    assert "open_clip: " in capsys.readouterr().out
    export_record = Results.read(folder / "results.json").meta["export"]
    (record,) = export_record["verdicts"]
    # both resize in Pillow, so that no pixel is rounded in another way
    assert record["kept"] and record["lowest_cosine"] >= 0.9999
    assert record["lost_points"] == {"en": 0, "zh": 0}
    assert record["bytes"] == sum(path.stat().st_size for path in (folder / "open_clip").iterdir())
    assert "open-clip-torch" in export_record["runs"][0]["versions"]


def test_a_refused_layout_is_removed_and_other_exports_stay(export_layout, capsys, monkeypatch):
    folder = export_layout()
    results = Results.read(folder / "results.json")
    other = results.meta["export"]["verdicts"][0] | {"file": "onnx/text_model.onnx"}
    results.meta["export"]["verdicts"].append(other)
    results.write(folder)
    monkeypatch.setattr(verdict, "MIN_COSINE", 2.0)
    with pytest.raises(SystemExit) as exit_info:
        export_layout()
    assert exit_info.value.code == 1 and "open_clip: not written" in capsys.readouterr().out
    assert not (folder / "open_clip").exists()
    verdicts = Results.read(folder / "results.json").meta["export"]["verdicts"]
    assert [entry["kept"] for entry in verdicts] == [True, False]

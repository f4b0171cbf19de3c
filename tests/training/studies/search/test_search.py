import pytest

from tests.modeling.color_model import save_color_model
from training.studies.search.__main__ import main
from training.utils.results import Results

pytestmark = pytest.mark.slow


def test_index_and_bare_loop_are_compared(corpus, tmp_path):
    model = save_color_model(tmp_path / "model")
    fields = {"model": model, "data": corpus / "train.parquet", "num_images": 40, "rounds": 1}
    fields |= {"width": 200, "output_dir": tmp_path / "results"}
    main([word for name, value in fields.items() for word in (f"--{name}", str(value))])
    rows = {(row.model, row.metric): row.value for row in Results.read(tmp_path / "results" / "results.json").rows}
    ratio = rows["index", "images_per_s"] / rows["bare loop", "images_per_s"]
    assert rows["index", "over_bare_loop"] == pytest.approx(ratio, rel=1e-2)
    assert rows["decoding", "images_per_cpu_s"] > 0
    assert not (tmp_path / "results" / ".search").exists()


def test_a_wrong_model_is_one_line(corpus, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--model", str(tmp_path), "--data", str(corpus / "train.parquet")])
    assert stopped.value.code == 2 and "has no config.json" in capsys.readouterr().err

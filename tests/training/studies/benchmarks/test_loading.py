import pytest

from training.studies.benchmarks.loading import main
from training.studies.benchmarks.measure_loading import student_config
from training.utils.results import Results

pytestmark = pytest.mark.slow


def test_streams_are_compared_with_pillow_and_with_ready_tensors(corpus, tmp_path):
    fields = {"data": corpus / "train.parquet", "num_images": 8, "num_shards": 2, "batch_size": 4, "steps": 1}
    fields |= {"rounds": 1, "students": "demo", "output_dir": tmp_path}
    main([word for name, value in fields.items() for word in (f"--{name}", str(value))])
    rows = {row.metric: row.value for row in Results.read(tmp_path / "results.json").rows}
    for kind, peer in (("tar", "pillow"), ("tar", "pillow_from_tar"), ("parquet", "pillow")):
        expected = rows[f"{kind}_images_per_s"] / rows[f"{peer}_images_per_s"]
        assert rows[f"{kind}_over_{peer}"] == pytest.approx(expected, rel=1e-2)
    expected = rows["streamed_images_per_s"] / rows["ready_images_per_s"]
    assert rows["streamed_over_ready"] == pytest.approx(expected, rel=1e-2)
    assert not (tmp_path / "images").exists()


def test_students_have_the_image_size_of_their_recipe():
    assert (student_config("tiny").image_size, student_config("demo").image_size) == (224, 64)
    with pytest.raises(ValueError, match="no student size 'huge'"):
        student_config("huge")

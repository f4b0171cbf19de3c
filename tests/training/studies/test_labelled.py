import pytest
from datasets import Dataset

from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.studies.labelled import LabelledPhotographs

pytestmark = pytest.mark.slow


def test_labels_need_not_be_numbered_from_0(labelled, teacher_folder, tmp_path):
    rows = Dataset.from_parquet(labelled, cache_dir=str(tmp_path))
    numbered = rows.map(lambda row: {"label": 3 * row["label"] + 1}, cache_file_name=str(tmp_path / "rows.arrow"))
    numbered.to_parquet(tmp_path / "numbered.parquet")
    model = ZeroShotModel.from_pretrained(teacher_folder)
    for number in (12, 5):  # the last classes are missing among five images
        first, second = (
            [row.value for row in LabelledPhotographs.open(source, number).measure(model, "a")]
            for source in (labelled, str(tmp_path / "numbered.parquet"))
        )
        assert first == second and len(first) == 2

"""Images that rows name by path or URL: refused by default."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value

from training.config import DataConfig, EvalConfig
from training.data import load_source, require_allowed, rules_for
from training.data.images import PATH_REFUSED, URL_REFUSED, CellRules
from training.evaluation.classify import make_evaluate

NOWHERE = "http://127.0.0.1:1/a.png"


@pytest.fixture
def outside(tmp_path, images) -> Path:
    path = tmp_path / "outside.png"
    images[0].save(path)
    return path


def in_validation(source: str, **allowed: bool):
    config = EvalConfig(data=source, class_names=str(Path(source).with_name("names.json")))
    make_evaluate(config, None, DataConfig(train="x", **allowed))


READERS = {
    "data": lambda source, **allowed: require_allowed(
        load_source(source), "image", rules_for(source, **allowed), "x"
    ),
    "validation": in_validation,
}


@pytest.mark.parametrize("reader", READERS)
def test_foreign_files_and_urls_are_refused_with_their_row_unless_allowed(
    reader, outside, images, tmp_path
):
    (tmp_path / "names.json").write_text(
        '[{"en": "frog", "zh": "青蛙"}, {"en": "cat", "zh": "猫"}]', encoding="utf-8"
    )
    images[1].save(tmp_path / "own.png")

    def read(path: str, **allowed: bool):
        cells = [
            {"bytes": (tmp_path / "own.png").read_bytes(), "path": None},
            {"bytes": None, "path": path},
        ]
        features = Features(
            {"image": Image(decode=False), "en": Value("string"), "zh": Value("string")}
        )
        columns = {"image": cells, "en": ["frog", "cat"], "zh": ["青蛙", "猫"]}
        table = Dataset.from_dict(columns, features=features).with_format("arrow")[:]
        pq.write_table(
            table, tmp_path / "a.parquet"
        )  # `datasets` would copy the file into the table
        READERS[reader](str(tmp_path / "a.parquet"), **allowed)

    with pytest.raises(ValueError, match=f"row 1 of .*: {PATH_REFUSED}"):
        read(str(outside))
    read(str(outside), allow_paths=True)
    with pytest.raises(ValueError, match=f"row 1 of .*: {URL_REFUSED}"):
        read(NOWHERE, allow_paths=True)


@pytest.mark.parametrize("path", ["file:///etc/hostname", "simplecache::file:///etc/hostname"])
def test_a_url_of_a_file_is_refused(path):
    with pytest.raises(ValueError, match=URL_REFUSED):
        require_allowed(
            Dataset.from_dict({"image": [path]}), "image", CellRules(allow_paths=True), "x"
        )


def test_images_of_the_data_are_read_without_a_flag(tmp_path, images):
    images[0].save(tmp_path / "a.png")
    rows = load_source(str(tmp_path))
    assert require_allowed(rows, "image", rules_for(str(tmp_path)), "x")[0]["image"]["path"] == str(
        tmp_path / "a.png"
    )


def test_a_column_without_images_is_refused():
    rows = Dataset.from_dict({"image": [[0.5, 0.5]]})
    with pytest.raises(ValueError, match=r"holds .*not encoded images"):
        require_allowed(rows, "image", CellRules(), "x")

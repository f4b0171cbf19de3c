import pytest

from training.data import load_source
from training.data.sources import check_split, digest_sources


def test_parquet_source_has_images_and_both_captions(train_rows):
    assert {"image", "en", "zh"} <= set(train_rows.column_names) and len(train_rows) > 100


def test_glob_of_parquet_files_is_one_source(corpus, train_rows):
    assert len(load_source(str(corpus / "[ut]*n.parquet"))) > len(train_rows)


def test_function_source_is_called():
    assert load_source("tests.tiny:load_tiny_rows")["zh"] == ["红苹果", "青蛙"]


def test_image_folder_with_metadata_is_a_source(tmp_path, images):
    for number in range(3):
        images[number].save(tmp_path / f"{number}.png")
    (tmp_path / "metadata.csv").write_text("file_name,en,zh\n0.png,a,甲\n1.png,b,乙\n2.png,c,丙\n", encoding="utf-8")
    rows = load_source(str(tmp_path))
    assert sorted(rows["zh"]) == sorted("甲乙丙") and rows[0]["image"].size == images[0].size


@pytest.mark.parametrize(
    "source", ["nowhere.parquet", "no.such.module:function", "tests.tiny:no_function", "nobody/x"]
)
def test_missing_source_raises_an_error_with_its_name(source):
    with pytest.raises(ValueError, match="cannot load") as error:
        load_source(source)
    assert source in str(error.value)


def test_a_split_of_files_is_refused():
    check_split("x.parquet", "train")
    check_split("me/set", "validation")
    with pytest.raises(ValueError, match=r"data\.split: 'a\.tar' has no splits, got 'validation'"):
        check_split(["a.tar", "b.tar"], "validation")


def test_the_digest_of_a_source_follows_its_files(tmp_path):
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).write_bytes(b"x")
    pattern = str(tmp_path / "{0..1}.tar")
    before = digest_sources([pattern]), digest_sources([pattern], with_states=False)
    assert digest_sources([str(tmp_path / "*.tar")]) == before[0] != digest_sources([str(tmp_path / "0.tar")])
    (tmp_path / "1.tar").write_bytes(b"longer")
    assert digest_sources([pattern]) != before[0] and digest_sources([pattern], with_states=False) == before[1]
    assert digest_sources(["some/id"]) == digest_sources([])

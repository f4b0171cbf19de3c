"""`training/embed.py`: every kind of source, interruptions, and failures by cause."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Image
from PIL import ExifTags
from PIL import Image as PILImage

from modeling_dcclip import DCCLIPModel
from modeling_dcclip.search.index import Index
from modeling_dcclip.search.index.lance import LanceIndex
from modeling_dcclip.search.index.upgrade import upgrade_index
from tests.color_model import save_color_model
from tests.training.data.rows import BROKEN, make_rows
from tests.training.data.shards import read_samples, write_shards
from tests.variants import ignored_fields
from training import embed
from training.data import open_image
from training.edge.verdict import ALLOWED_POINTS
from training.embedding import EmbedOptions
from training.embedding.embedder import Embedder
from training.embedding.run import ShardKey
from training.embedding.shard_writer import passes_in_half_precision
from training.utils.cli import parse_options
from training.utils.keys import make_key
from training.utils.results import Results

DAMAGED = 5  # number of the damaged image, the second of its batch


def arguments_of(output_dir, model, data, *more):
    options = {"model": model, "data": data, "output_dir": output_dir, "batch_size": 4}
    named = [f"--{name}={value}" for name, value in options.items()]
    return [*named, *map(str, more)]


def embed_into(*arguments):
    embed.main(arguments_of(*arguments))


def rows_of(output_dir):
    rows = []
    for path in sorted((output_dir / "shards").iterdir()):
        rows += pq.read_table(path).to_pylist()
    return rows


def counts_of(output_dir):
    return {row.metric: row.value for row in Results.read(output_dir / "results.json").rows}


def content(folder):
    """Bytes of the vector of each image of an index, by name."""
    found = {}
    with Index.open(folder) as index, index.catalog.reading():
        for path, row in index.catalog.execute("SELECT path, row FROM files"):
            found[os.fsdecode(path)] = index.store.read(np.array([row])).tobytes()
    return found


@pytest.fixture
def cells(train_rows):
    """Twenty images; among them, a damaged file and a row without an image."""
    images = train_rows.select(range(20)).cast_column("image", Image(decode=False))["image"]
    found = [{"bytes": cell["bytes"], "path": None} for cell in images]
    return [*found[:DAMAGED], BROKEN, None, *found[DAMAGED:]]


@pytest.fixture
def table(cells, tmp_path):
    """A parquet file of them, with a name for each."""
    path = tmp_path / "images.parquet"
    keys = [f"key {number}" for number in range(len(cells))]
    make_rows(cells, key=keys).to_parquet(path)
    return path


@pytest.fixture
def photos(cells, tmp_path):
    """A folder of the images that can be read, named by their numbers."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, cell in enumerate(cells):
        if number not in (DAMAGED, DAMAGED + 1):
            (folder / f"{number}.png").write_bytes(cell["bytes"])
    return folder


@pytest.fixture
def tars(train_rows, tmp_path):
    return write_shards(tmp_path / "tars", read_samples(train_rows, 20), 5)


STREAMED = ("--streaming", "--image_column", "png", "--name_column", "__key__")


def test_an_index_has_the_vectors_that_dcclip_index_writes(table, photos, color_model, tmp_path):
    embed_into(tmp_path / "out", color_model, table, "--name_column=key", "--rows_per_shard=6")
    assert len(times(tmp_path / "out")) == 4
    counts = counts_of(tmp_path / "out")
    assert counts.pop("images_per_s") > 0
    assert counts == {
        "embedded": 20,
        "unreadable: image does not decode": 1,
        "unreadable: no image": 1,
    }
    with Index.open(tmp_path / "index", color_model, create=True) as index:
        index.add(photos)
    expected = {}
    for path, vector in content(tmp_path / "index").items():
        expected[f"key {Path(path).stem}"] = vector
    assert len(expected) == 20
    assert content(tmp_path / "out" / "index") == expected


def test_images_of_a_folder_are_found_by_their_path(color_model, tmp_path):
    photos = tmp_path / "photos"
    (photos / "a").mkdir(parents=True)
    exif = PILImage.Exif()
    exif[ExifTags.Base.DateTime] = "2010:05:06 07:08:09"
    for name, color in {"a/one": "red", "a/two": "blue", "three": "lime"}.items():
        PILImage.new("RGB", (20, 16), color).save(photos / f"{name}.png", exif=exif)
    embed_into(tmp_path / "out", color_model, photos)
    with Index.open(tmp_path / "out" / "index") as index:
        (hit,) = index.search("红", top=1)
        assert hit.path == str(photos / "a" / "one.png")
        assert hit.taken == "2010-05-06 07:08:09"
        assert index.add(photos).unchanged == 3  # size and time are those of the files


def test_a_table_names_its_images_in_any_column_and_changed_ones_are_noticed(
    photos, color_model, tmp_path, refusal
):
    table = photos / "table.csv"
    table.write_text("photo\n0.png\n1.png\n", encoding="utf-8")
    embed_into(tmp_path / "out", color_model, table, "--image_column=photo")
    assert counts_of(tmp_path / "out")["embedded"] == 2
    os.utime(photos / "0.png", (1, 1))
    arguments = arguments_of(tmp_path / "out", color_model, table, "--image_column=photo")
    assert "embeddings of other data" in refusal(embed.main, *arguments)


def test_what_cannot_be_embedded_is_refused_before_any_image(
    teacher_folder, color_model, photos, table, tmp_path, refusal
):
    found = refusal(embed.main, *arguments_of(photos, color_model, photos))
    assert "which this command reads" in found
    found = refusal(embed.main, *arguments_of(tmp_path / "out", teacher_folder, table))
    assert "has no file onnx/text_model" in found
    model = shutil.copytree(color_model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"truncate_dim": 12}))
    found = refusal(embed.main, *arguments_of(tmp_path / "out", model, table, "--format=lance"))
    assert "format: lance indexes vectors with a multiple of 8 dimensions, and the model" in found
    assert not (tmp_path / "out").exists()


def times(output_dir):
    return {path.name: path.stat().st_mtime_ns for path in (output_dir / "shards").iterdir()}


def test_a_shard_that_cannot_be_read_does_not_stop_the_others(tars, color_model, tmp_path, capsys):
    damaged = tmp_path / "tars" / "0002.tar"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:600])  # in the middle of the first image
    with pytest.raises(SystemExit) as stopped:
        embed_into(tmp_path / "out", color_model, tars, *STREAMED)
    assert stopped.value.code == 1
    assert "1 of 5 shards could not be read" in capsys.readouterr().err
    finished = times(tmp_path / "out")
    assert sorted(Path(name).stem for name in finished) == ["00000", "00001", "00003", "00004"]
    damaged.write_bytes(whole)
    embed_into(tmp_path / "out", color_model, tars, *STREAMED)
    assert counts_of(tmp_path / "out")["embedded"] == 20
    assert finished.items() < times(tmp_path / "out").items()


@pytest.fixture
def embedded(table, color_model, tmp_path):
    """A folder with the embeddings of the table."""
    embed_into(tmp_path / "out", color_model, table)
    return tmp_path / "out"


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    """A model of a different embedding space."""
    return save_color_model(tmp_path_factory.mktemp("other") / "model", turn=1)


def test_finished_shards_are_used_again_unless_they_are_damaged_or_of_another_model(
    embedded, table, color_model, other_model, refusal
):
    before = times(embedded)
    shutil.rmtree(embedded / "index")
    embed_into(embedded, color_model, table)
    assert len(content(embedded / "index")) == 20
    assert times(embedded) == before
    assert "images_per_s" not in counts_of(embedded)  # nothing was embedded
    found = refusal(embed.main, *arguments_of(embedded, other_model, table))
    assert "or of a different model" in found
    (shard,) = (embedded / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:-9])
    found = refusal(embed.main, *arguments_of(embedded, color_model, table))
    assert f"'{shard}' is damaged" in found


def test_the_key_of_a_shard_names_everything_that_its_vectors_depend_on():
    options = EmbedOptions(model="m", data=["d"], output_dir="o")
    key = ShardKey(options, "model", "encoder", "data", num_shards=2, num_rows=None)
    without_effect = ("model", "output_dir", "format", "ray", "model_id", "batch_size")
    without_effect += ("gate_data", "class_names")
    assert ignored_fields(make_key, key) == [f"options.{name}" for name in without_effect]


def test_images_of_no_folder_are_not_lost_by_an_upgrade(embedded, other_model):
    with Index.open(embedded / "index") as index:
        with pytest.raises(ValueError, match="upgrade: 20 images of the index"):
            upgrade_index(index, other_model)
        assert len(index) == 20


def test_weights_encode_as_transformers_does(cells, table, teacher_folder, processor, tmp_path):
    embed_into(tmp_path / "out", teacher_folder, table, "--format", "parquet")
    assert not (tmp_path / "out" / "index").exists()
    found = np.array([row["vector"] for row in rows_of(tmp_path / "out")])
    images = processor(images=[open_image(cell) for cell in cells[:DAMAGED]], return_tensors="pt")
    with torch.no_grad():
        model = DCCLIPModel.from_pretrained(teacher_folder).eval()
        expected = model.get_image_features(**images).pooler_output
    expected = torch.nn.functional.normalize(expected, dim=-1).numpy()
    # Pillow's resize rounds differently
    assert (found[:DAMAGED] * expected).sum(1).min() > 0.999
    assert not found[DAMAGED : DAMAGED + 2].any()
    assert found[DAMAGED + 2].any()


def test_bfloat16_is_used_where_it_passes_the_gate(
    teacher_folder, corpus, cells, monkeypatch, caplog
):
    def passes(*more):
        arguments = arguments_of("o", teacher_folder, "d", *more)
        options = parse_options(EmbedOptions, arguments, prog="embed", description="")
        return passes_in_half_precision(options, torch.device("cpu"))

    assert not passes()
    assert "names no labeled data" in caplog.text
    named = [f"--gate_data={corpus / 'train.parquet'}"]
    with pytest.raises(ValueError, match=r"gate_data: .* both --gate_data and --class_names"):
        passes(*named)
    named.append(f"--class_names={corpus / 'class_names.json'}")
    # a model that was not trained confuses images by rounding alone
    monkeypatch.setitem(ALLOWED_POINTS, "bfloat16", 100.0)
    assert passes(*named)
    monkeypatch.setitem(ALLOWED_POINTS, "bfloat16", 0.0)
    assert not passes(*named)
    columns = {"image": [cell["bytes"] for cell in cells[:DAMAGED]]}
    half, full = (
        Embedder(str(teacher_folder), dtype=dtype)(columns)["vector"].combine_chunks()
        for dtype in (torch.bfloat16, torch.float32)
    )
    cosines = (half.flatten().to_numpy() * full.flatten().to_numpy()).reshape(DAMAGED, -1).sum(1)
    assert 0.99 < cosines.min() < 1


def test_an_embedder_is_a_function_of_batches(cells, table, color_model, tmp_path):
    embed_into(tmp_path / "out", color_model, table, "--name_column", "key", "--format=parquet")
    rows = Dataset.from_parquet(str(table)).cast_column("image", Image(decode=False))
    embedder = Embedder(str(color_model), "image", "key")
    embedded = rows.map(embedder, batched=True, batch_size=7, remove_columns=rows.column_names)
    assert embedded.to_list() == rows_of(tmp_path / "out")


def test_a_collection_in_lance_is_searched(photos, color_model, tmp_path):
    pytest.importorskip("lance", reason='pip install -e ".[lance]"')
    embed_into(tmp_path / "out", color_model, photos, "--format=lance")
    with LanceIndex(tmp_path / "out" / "lance") as index:
        assert len(index) == 20
        assert index.search("red", top=1)[0].is_current


def test_of_images_with_the_same_name_the_first_is_in_the_index(tars, color_model, tmp_path):
    embed_into(tmp_path / "out", color_model, tars, *STREAMED)  # the keys of the shards repeat
    with Index.open(tmp_path / "out" / "index") as index:
        assert len(index) == 4
        assert ("00003", "another image has the same name") in index.catalog.failures()
    assert counts_of(tmp_path / "out")["not in the index: another image has the same name"] == 16


def test_rows_cannot_name_files_outside_the_data(photos, color_model, tmp_path):
    table = tmp_path / "rows.parquet"
    path = str(photos / "0.png")
    cells = [{"bytes": None, "path": path}, {"bytes": Path(path).read_bytes(), "path": None}]
    Dataset.from_dict({"image": cells}).to_parquet(table)
    embed_into(tmp_path / "out", color_model, table)
    refused = "unreadable: image is a path outside the data, and allow_paths is off"
    assert counts_of(tmp_path / "out")[refused] == 1
    embed_into(tmp_path / "all", color_model, table, "--allow_paths")
    assert content(tmp_path / "all" / "index").keys() == {path, "00000/000001"}

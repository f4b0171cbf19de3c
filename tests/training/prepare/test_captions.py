"""Captions by tiny captioners of the true classes, through the command."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
)

from tests.tiny import IMAGE_SIZE
from training.config import DataConfig
from training.data import CaptionTokenizer, PairDataset
from training.data.batch import select_captions
from training.prepare.captions.__main__ import main
from training.prepare.captions.captioner import Captioner
from training.prepare.captions.options import CaptionsOptions
from training.prepare.captions.run import REPEATED, UNLIKE, WRITTEN, caption
from training.prepare.curate.similarity import Scorer

pytestmark = pytest.mark.slow

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "red",
    "apple",
    "frog",
    "green",
    "dog",
    "cat",
    "blue",
    "car",
    "a",
    "on",
    "the",
    "tree",
    "sun",
    "house",
    "bird",
]


def make_tokenizer() -> Any:
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return BertTokenizerFast(tokenizer_object=backend, vocab=vocabulary)


def save_captioner(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    text = size | special | {"vocab_size": len(SPECIAL + WORDS), "max_position_embeddings": 40}
    vision = size | {"image_size": IMAGE_SIZE, "patch_size": 16}
    pixels = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    model: Any
    processor: Any
    if kind == "blip":
        text |= {"encoder_hidden_size": 32, "is_decoder": True}
        model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
        processor = BlipProcessor(BlipImageProcessor(size=pixels), make_tokenizer())
    else:
        model = GitForCausalLM(GitConfig(vision_config=vision, **text))
        crop = {"do_center_crop": False, "size": pixels}
        processor = GitProcessor(CLIPImageProcessor(**crop), make_tokenizer())
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):  # else every image has the same caption
            module.weight.data.normal_(std=3 * module.weight.shape[1] ** -0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["blip", "git"])
def captioner(request, tmp_path_factory) -> Path:
    """Tests must not write into it."""
    return save_captioner(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    """Tests must not write into it."""
    return save_captioner("blip", tmp_path_factory.mktemp("blip_alone"))


@pytest.fixture
def source(train_rows, tmp_path) -> Path:
    path = tmp_path / "images.parquet"
    train_rows.select(range(7)).to_parquet(path)
    return path


def read(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted((folder / "data").iterdir()) for row in pq.read_table(file).to_pylist()]


def options_for(model: Path, source: Path, folder: Path, **fields: Any) -> CaptionsOptions:
    fields = {"rows_per_shard": 3, "batch_size": 2, "max_new_tokens": 8} | fields
    return CaptionsOptions(model=str(model), data=str(source), output_dir=str(folder), **fields)


def test_each_image_has_the_captioners_most_likely_text(captioner, source, train_rows, tmp_path, capsys):
    arguments = ["--model", str(captioner), "--data", str(source), "--output_dir", str(tmp_path / "out")]
    main([*arguments, "--rows_per_shard", "3", "--batch_size", "2", "--max_new_tokens", "8"])
    assert "written" in capsys.readouterr().out
    rows = read(tmp_path / "out")
    own = Captioner(options_for(captioner, source, tmp_path / "x"))
    for row, cells in enumerate(rows):
        (expected,) = own([train_rows[row]["image"].convert("RGB")])
        assert cells["generated"] == [text for text in expected if any(map(str.isalnum, text))]
        assert (cells["en"], cells["zh"]) == (train_rows[row]["en"], train_rows[row]["zh"])
        assert cells["image"]["bytes"]  # the images travel with the captions
    assert len({tuple(cells["generated"]) for cells in rows}) > 1
    counts = json.loads((tmp_path / "out" / "captions.json").read_text(encoding="utf-8"))
    assert counts["captions"][WRITTEN] == sum(len(cells["generated"]) for cells in rows)
    assert counts["meta"]["model"] == str(captioner) and counts["language"] == "en"


def test_several_captions_are_sampled_added_to_a_column_and_drawn_for_each_view(
    blip, source, tokenizer, train_rows, tmp_path
):
    counts = caption(options_for(blip, source, tmp_path / "out", column="en", num_captions=5))
    rows = read(tmp_path / "out")
    assert all(cells["en"][0] == train_rows[row]["en"] for row, cells in enumerate(rows))
    assert max(len(cells["en"]) for cells in rows) > 2
    assert counts[WRITTEN] + counts[REPEATED] + sum(
        number for cause, number in counts.items() if cause not in (WRITTEN, REPEATED)
    ) == 5 * len(rows)
    data = DataConfig(train=str(tmp_path / "out" / "data"), caption_columns={"en": "en", "zh": "zh"})
    dataset = PairDataset(Dataset.from_parquet(str(tmp_path / "out/data/*.parquet")), data,
                          CaptionTokenizer(tokenizer, 32), IMAGE_SIZE)  # fmt: skip
    for row, cells in enumerate(rows):
        views = [select_captions(dataset.captions[row], view, ["en"])["en"] for view in range(len(cells["en"]))]
        assert views == cells["en"]


def test_captions_unlike_their_image_are_dropped_and_counted(blip, source, train_rows, teacher_folder, tmp_path):
    everything = read_captions(caption_to(options_for(blip, source, tmp_path / "all", num_captions=4)))
    scorer = Scorer(str(teacher_folder), "float32", 4)
    images = [{"bytes": cell["bytes"], "path": None} for cell in (row["image"] for row in read(tmp_path / "all"))]
    embedded = scorer.encode_images(images)
    cosines = [scorer.score(embedded[[row] * len(texts)], texts) for row, texts in enumerate(everything)]
    threshold = float(sorted(value for part in cosines for value in part)[sum(map(len, everything)) // 2]) - 1e-4
    fields = {"num_captions": 4, "teacher": str(teacher_folder), "min_similarity": threshold}
    counts = caption(options_for(blip, source, tmp_path / "kept", **fields))
    expected = [
        [text for text, value in zip(texts, part, strict=True) if value >= threshold]
        for texts, part in zip(everything, cosines, strict=True)
    ]
    assert read_captions(tmp_path / "kept") == expected
    assert counts[UNLIKE] == sum(map(len, everything)) - sum(map(len, expected)) > 0
    assert counts[WRITTEN] == sum(map(len, expected)) > 0


def caption_to(options: CaptionsOptions) -> Path:
    caption(options)
    return Path(options.output_dir)


def read_captions(folder: Path) -> list[list[str]]:
    return [row["generated"] for row in read(folder)]


def test_a_resumed_run_equals_an_unbroken_one_to_the_byte(blip, source, tmp_path):
    whole = caption_to(options_for(blip, source, tmp_path / "whole", num_captions=3))
    broken = tmp_path / "broken"
    caption(options_for(blip, source, broken, num_captions=3))
    shards = sorted((broken / "data").iterdir())
    kept = shards[0].stat().st_mtime_ns
    shards[1].unlink()
    (broken / "state" / "00002.json").unlink()
    counts = caption(options_for(blip, source, broken, num_captions=3))
    assert shards[0].stat().st_mtime_ns == kept
    for file in sorted((whole / "data").iterdir()):
        assert (broken / "data" / file.name).read_bytes() == file.read_bytes()
    assert counts == json.loads((whole / "captions.json").read_text(encoding="utf-8"))["captions"]
    with pytest.raises(ValueError, match=r"seed: the folder was started with 0, this run has 1"):
        caption(options_for(blip, source, broken, num_captions=3, seed=1))


def test_a_damaged_image_gets_no_caption_and_chinese_needs_its_script(blip, train_rows, tmp_path):
    rows = pq.read_table(Dataset.to_parquet and _damaged(train_rows, tmp_path / "images.parquet"))
    counts = caption(options_for(blip, tmp_path / "images.parquet", tmp_path / "out"))
    captions = read_captions(tmp_path / "out")
    assert rows.num_rows == len(captions) == 4 and captions[1] == []
    assert counts["image does not decode"] == 1
    chinese = caption(options_for(blip, tmp_path / "images.parquet", tmp_path / "zh", language="zh"))
    assert chinese[WRITTEN] == 0 and chinese["caption in the wrong script"] > 0  # the captioner writes English


def _damaged(train_rows: Dataset, path: Path) -> Path:
    train_rows.select(range(4)).to_parquet(path)
    table = pq.read_table(path)
    cells = table["image"].to_pylist()
    cells[1] = {"bytes": b"no image", "path": None}
    position = table.column_names.index("image")
    import pyarrow as pa

    pq.write_table(table.set_column(position, "image", pa.array(cells, table.schema.field("image").type)), path)
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_captions": 0}, r"num_captions: 0 is not at least 1"),
        ({"min_similarity": 0.2}, r"min_similarity: is 0.2 with the teacher None. Set both"),
        ({"min_similarity": 2.0, "teacher": "x"}, r"min_similarity: 2.0 is not in -1..1"),
        ({"dtype": "int8"}, r"dtype: 'int8' is none of"),
        ({"column": "image"}, r"column: 'image' is the column of the images"),
    ],
)
def test_options_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CaptionsOptions(model="m", data="d", output_dir="o", **fields)


def test_a_model_that_captions_nothing_is_refused(blip, source, teacher_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--model", str(teacher_folder), "--data", str(source), "--output_dir", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "is no captioner that transformers can load" in capsys.readouterr().err
    copied = shutil.copytree(blip, tmp_path / "filled")
    with pytest.raises(ValueError, match=r"output_dir: .* is not empty. Name a new folder."):
        caption(options_for(blip, source, copied))

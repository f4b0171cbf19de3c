import unicodedata
from collections import Counter
from io import BytesIO

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from tokenizers.decoders import ByteLevel
from transformers import CLIPImageProcessor

from training.config import DataConfig
from training.data import (
    CaptionTokens,
    Group,
    KeyedBatches,
    Order,
    PairDataset,
    SkipError,
    decode_image,
    load_source,
    make_loader,
    open_image,
)
from training.data.images import image_cell
from training.prepare.vocabulary import cut_vocabulary
from training.studies.ablations.multilingual import train_unigram


def cell(image: PILImage.Image, kind: str = "PNG") -> dict:
    buffer = BytesIO()
    image.save(buffer, kind)
    return {"bytes": buffer.getvalue(), "path": None}


def make_rows(cells: list, **captions: list) -> Dataset:
    """Rows with captions of any kind, so that pyarrow cannot repair what is under test."""
    features = Features({"image": Image(decode=False)})
    return (
        Dataset.from_dict({"image": cells}, features=features)
        .cast_column("image", Image())
        .add_column("en", captions["en"])
        if "zh" not in captions
        else make_rows(cells, en=captions["en"]).add_column("zh", captions["zh"])
    )


@pytest.fixture
def dataset(train_rows, tokenizer):
    def build(rows: Dataset | None = None, languages: tuple[str, ...] = ("en", "zh"), **fields) -> PairDataset:
        columns = {language: language for language in languages}
        config = DataConfig(train="tiny", caption_columns=columns, **fields)
        return PairDataset(train_rows if rows is None else rows, config, CaptionTokens(tokenizer, 32), 64)

    return build


def spell(tokenizer, input_ids: torch.Tensor) -> list[str]:
    """The texts that byte-level tokens stand for."""
    special = set(tokenizer.all_special_tokens)
    rows = [tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in input_ids]
    return [ByteLevel().decode([token for token in row if token not in special]).strip() for row in rows]


def order(**fields) -> Order:
    return Order(**{"batch_size": 8, "seed": 0, "num_views": 0, "start": 0, "stop": 4} | fields)


def key_batches(rows, **fields) -> list[list[tuple[int, int]]]:
    """Row and view of every sample of one source's batches."""
    group = Group(source=0, languages=("en", "zh"), weight=1.0, rows=np.asarray(rows))
    return [[(key.row, key.view) for key in batch] for batch in KeyedBatches([group], order(**fields))]


# sources


def test_parquet_source_holds_images_and_both_names(train_rows):
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
def test_source_that_is_not_there_is_refused_by_name(source):
    with pytest.raises(ValueError, match="cannot load") as error:
        load_source(source)
    assert source in str(error.value)


@pytest.mark.parametrize("changes", [{"image_column": "image"}, {"caption_columns": {"en": "english"}}])
def test_missing_column_is_refused_by_name(train_rows, tokenizer, changes):
    missing = changes.get("image_column") or changes["caption_columns"]["en"]
    with pytest.raises(ValueError, match=f"no column '{missing}'"):
        PairDataset(train_rows, DataConfig(train="tiny", **changes), CaptionTokens(tokenizer, 32), 64)


# captions


@pytest.mark.parametrize(
    ("captions", "cause"),
    [(["frog", None, "cat"], "no caption"), (["frog", " ", "cat"], "empty caption")],
)
def test_row_without_a_caption_is_skipped_and_counted(dataset, images, captions, cause):
    rows = make_rows([cell(image) for image in images[:3]], en=captions)
    built = dataset(rows, ("en",), max_skip_share=0.5)
    assert built.groups[0].rows.tolist() == [0, 2]
    assert list(built.skipped.causes) == [1] and built.skipped.causes[1] == cause


def test_caption_lost_in_one_language_is_counted_and_the_other_still_used(dataset, images):
    rows = make_rows([cell(image) for image in images[:3]], en=["frog", "fox", "cat"], zh=["青蛙", None, " "])
    built = dataset(rows, ("en", "zh"))
    assert built.groups[0].rows.tolist() == [0, 1, 2] and not built.skipped.causes
    assert built.skipped.captions == {"no caption (zh)": 1, "empty caption (zh)": 1}
    assert "no caption (zh): 1" in str(built.skipped)


def test_captions_that_are_numbers_are_skipped_and_counted(dataset, images):
    rows = make_rows([cell(image) for image in images[:3]], en=[1, 2, 3]).add_column("zh", ["甲", "乙", ""])
    with pytest.raises(SkipError, match=r"caption is not a string: 3"):
        dataset(rows, ("en",), max_skip_share=0.9)


def test_a_row_needs_a_caption_in_one_language_only(dataset, images):
    cells = [cell(image) for image in images[:3]]
    rows = make_rows(cells, en=["frog", "cat", ""], zh=["青蛙", "", "狗"])
    built = dataset(rows)
    assert built.groups[0].rows.tolist() == [0, 1, 2]
    batch = built.collate([(row, 0, built[row]) for row in range(3)])
    assert batch["owner"].tolist() == [0, 0, 1, 2]
    assert batch["language"].tolist() == [0, 1, 0, 1]


def test_too_many_skips_stop_the_run_with_cause_and_limit(dataset, images):
    rows = make_rows([cell(image) for image in images[:4]], en=["frog", "", "", "cat"])
    with pytest.raises(SkipError, match=r"2 of 4 samples.*empty caption: 2.*max_skip_share=0.3"):
        dataset(rows, ("en",), max_skip_share=0.3)


def test_data_without_any_usable_row_are_refused(dataset, images):
    rows = make_rows([cell(images[0])], en=[""])
    with pytest.raises(ValueError, match="no usable row"):
        dataset(rows, ("en",), max_skip_share=1.0)


def test_several_captions_of_a_row_take_turns(dataset, tokenizer, images):
    rows = make_rows([cell(images[0])], en=[["a frog", "green frog", "frog face"]])
    built = dataset(rows, ("en",))
    read = []
    for view in range(6):
        batch = built.collate([(0, view, built[0])])
        read += spell(tokenizer, batch["input_ids"])
    assert read == ["a frog", "green frog", "frog face"] * 2


def test_equal_captions_have_equal_ids(dataset, train_rows):
    built = dataset()
    twins = [row for row in range(len(train_rows)) if train_rows[row]["en"] == train_rows[0]["en"]]
    assert len(twins) == 2  # one concept, two drawings
    batch = built.collate([(row, 0, built[row]) for row in [*twins, 20]])
    ids = batch["caption_ids"].tolist()
    assert ids[:2] == ids[2:4] and len(set(ids)) == 4


def test_batch_holds_what_the_rows_hold(dataset, train_rows, tokenizer):
    built = dataset()
    batch = built.collate([(row, 3, built[row]) for row in (5, 40)])
    read = spell(tokenizer, batch["input_ids"])
    names = [train_rows[row][language] for row in (5, 40) for language in ("en", "zh")]
    # the tokenizer folds case and width
    assert [text.replace(" ", "") for text in read] == [name.lower().replace(" ", "") for name in names]
    assert batch["rows"].tolist() == [5, 40] and batch["view_ids"].tolist() == [3, 3]
    white = PILImage.new("RGBA", (64, 64), "white")
    expected = PILImage.alpha_composite(white, train_rows[5]["image"].convert("RGBA")).convert("RGB")
    assert np.array_equal(batch["images"][0].permute(1, 2, 0).numpy(), np.array(expected))


@pytest.mark.parametrize(
    "text", ["Ｒｅｄ　ＡＰＰＬＥ", "ﬁre engine №５", "e\u0301clair", "ｶﾞｰﾄﾞ　红苹果！", "  Red Apple "]
)
def test_training_and_the_pipelines_processor_read_a_text_alike(tokenizer, processor, images, text):
    """Unicode form, width, case and blanks are the tokenizer's own: whoever calls it gets the same ids."""
    rows = make_rows([cell(images[0])], en=[text])
    config = DataConfig(train="tiny", caption_columns={"en": "en"}, skip_wrong_script=False)
    built = PairDataset(rows, config, CaptionTokens(tokenizer, 32), 64)
    trained = built.collate([(0, 0, built[0])])["input_ids"]
    assert torch.equal(trained, processor(text=[text], return_tensors="pt")["input_ids"])
    plain = unicodedata.normalize("NFKC", text).lower().strip()
    assert torch.equal(trained, processor(text=[plain], return_tensors="pt")["input_ids"])


def test_texts_beyond_the_limit_are_cut_and_keep_their_end_token(train_rows, tokenizer):
    built = PairDataset(train_rows, DataConfig(train="tiny"), CaptionTokens(tokenizer, 6), 64)
    batch = built.collate([(row, 0, built[row]) for row in range(10)])
    assert built.skipped.captions["cut to 6 tokens"] > 0 and batch["input_ids"].shape[1] == 6
    full = batch["attention_mask"].all(1)
    assert full.any() and (batch["input_ids"][full, -1] == tokenizer.eos_token_id).all()


def test_teacher_reads_its_own_tokens_of_the_same_texts(train_rows, tokenizer, other_tokenizer):
    built = PairDataset(train_rows, DataConfig(train="tiny"), CaptionTokens(tokenizer, 32, other_tokenizer), 64)
    batch = built.collate([(5, 0, built[5])])
    ours = spell(tokenizer, batch["input_ids"])
    theirs = spell(other_tokenizer, batch["teacher_input_ids"])
    assert ours == theirs and batch["input_ids"].tolist() != batch["teacher_input_ids"].tolist()


@pytest.fixture(scope="module")
def unigram(train_rows):
    """A Unigram tokenizer and a cut of it, which some texts are read otherwise by."""
    texts = [*train_rows["en"], *train_rows["zh"]]
    source = train_unigram(texts, 700)
    return source, cut_vocabulary(source, texts[: len(texts) // 8], 350)


def test_a_cut_vocabulary_gives_the_teacher_its_ids_by_one_lookup(train_rows, unigram):
    source, vocabulary = unigram
    tokens = CaptionTokens(vocabulary.tokenizer, 32, source, vocabulary)
    built = PairDataset(train_rows, DataConfig(train="tiny"), tokens, None)
    (cause,) = [cause for cause in built.skipped.captions if "other pieces" in cause]
    assert 0 < built.skipped.captions[cause] == len(tokens.unaligned) < len(built.caption_ids)
    batch = built.collate([(row, 0, None) for row in range(len(train_rows))])
    texts = [choices[0] for row in range(len(train_rows)) for choices in built.captions[row].values()]
    expected = source(texts, padding=True, return_tensors="pt")["input_ids"]
    assert torch.equal(batch["teacher_input_ids"], expected)
    assert batch["aligned"].tolist() == [text not in tokens.unaligned for text in texts]
    aligned = [text for text in texts if text not in tokens.unaligned][:9]
    batch = tokens(aligned)
    assert torch.equal(batch["teacher_input_ids"], source(aligned, padding=True, return_tensors="pt")["input_ids"])
    assert torch.equal(batch["teacher_input_ids"], vocabulary.to_source(batch["input_ids"]))


def test_fields_of_a_nested_column_are_captions(tokenizer):
    rows = Dataset.from_dict({"translation": [{"en": "frog", "zh": "青蛙"}, {"en": "cat", "zh": "猫"}]})
    config = DataConfig(train="tiny", caption_columns={"en": "translation.en", "zh": "translation.zh"})
    built = PairDataset(rows, config, CaptionTokens(tokenizer, 32), None)
    assert built.captions[1] == {"en": ["cat"], "zh": ["猫"]}


def test_without_captions_or_images_a_batch_has_neither(train_rows, tokenizer):
    config = DataConfig(train="tiny")
    seen = PairDataset(train_rows.select_columns(["image"]), config, None, 64)
    assert set(seen.collate([(5, 0, seen[5])])) == {"skipped", "rows", "view_ids", "images"}
    read = PairDataset(train_rows.select_columns(["en", "zh"]), config, CaptionTokens(tokenizer, 32), None)
    assert "images" not in read.collate([(5, 0, read[5])]) and read[5] is None


# images


def test_transparent_images_lie_on_white():
    image = PILImage.new("RGBA", (64, 64), (200, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 32, 64))
    decoded = decode_image(cell(image), 64)
    assert decoded[:, 5, 5].tolist() == [200, 0, 0] and decoded[:, 5, 60].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["P", "L", "LA", "CMYK", "1", "I;16"])
def test_every_colour_mode_becomes_rgb(images, mode):
    image = images[0].convert("L").convert("I").convert("I;16") if mode == "I;16" else images[0].convert(mode)
    decoded = decode_image(cell(image, "TIFF"), 64)
    assert isinstance(decoded, torch.Tensor) and decoded.shape == (3, 64, 64) and decoded.dtype == torch.uint8


@pytest.mark.parametrize("size", [(128, 64), (64, 128), (300, 100)])
def test_images_that_are_not_square_are_cropped_to_their_centre(size):
    width, height = size
    image = PILImage.new("RGB", size, "red")
    edge = min(size)
    image.paste((0, 0, 255), ((width - edge) // 2, (height - edge) // 2, (width + edge) // 2, (height + edge) // 2))
    decoded = decode_image(cell(image), 64).float()
    assert decoded.shape == (3, 64, 64)
    assert (decoded[2, 4:-4, 4:-4] > 250).all() and (decoded[0, 4:-4, 4:-4] < 5).all()


@pytest.mark.parametrize("size", [(97, 64), (150, 211), (64, 64), (40, 50), (333, 64), (100, 1000)])
def test_a_image_is_what_resizing_and_then_cropping_makes_of_it(images, size):
    image = images[0].resize(size)
    scale = 64 / min(size)
    width, height = (max(64, round(edge * scale)) for edge in size)
    left, top = (width - 64) // 2, (height - 64) // 2
    resized = image.resize((width, height), PILImage.Resampling.BICUBIC)
    expected = np.array(resized.crop((left, top, left + 64, top + 64))).astype(int)
    decoded = decode_image(cell(image), 64).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(decoded - expected).max() <= 1


def test_a_long_strip_costs_no_more_than_a_short_one():
    strip = PILImage.new("RGB", (4_000_000, 2), "red")
    strip.paste((0, 0, 255), (1_999_990, 0, 2_000_010, 2))
    decoded = decode_image(cell(strip), 224)  # resized as a whole it would be 300 GB
    assert decoded.shape == (3, 224, 224) and decoded[2].min() == 255 and decoded[0].max() == 0


def test_a_image_is_what_the_image_processor_makes_of_it(images):
    image = images[0].convert("RGB").resize((150, 211))
    processor = CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, do_rescale=False, do_normalize=False
    )
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(decode_image(cell(image), 64), expected.to(torch.uint8))


def test_a_image_is_turned_as_the_camera_was_held():
    upright = PILImage.new("RGB", (64, 64), "red")
    upright.paste((0, 0, 255), (0, 0, 64, 32))  # blue above
    exif = PILImage.Exif()
    exif[0x0112] = 6  # to be turned clockwise to stand upright
    buffer = BytesIO()
    upright.transpose(PILImage.Transpose.ROTATE_90).save(buffer, "JPEG", exif=exif)
    decoded = decode_image({"bytes": buffer.getvalue(), "path": None}, 64)
    assert decoded[2, :28].min() > 200 and decoded[0, 36:].min() > 200


def test_a_large_photograph_is_decoded_small_and_looks_the_same(images):
    large = images[0].convert("RGB").resize((1024, 768), PILImage.Resampling.BICUBIC)
    jpeg = cell(large, "JPEG")
    assert open_image(jpeg, 64).size == (256, 192) and open_image(jpeg).size == (1024, 768)
    small = PILImage.open(BytesIO(jpeg["bytes"])).resize((85, 64), PILImage.Resampling.BICUBIC).crop((10, 0, 74, 64))
    difference = decode_image(jpeg, 64).permute(1, 2, 0).numpy().astype(int) - np.array(small)
    assert np.abs(difference).mean() < 1 and np.abs(difference).max() < 24


def test_a_column_may_hold_the_bytes_or_the_path_alone(images, tmp_path):
    whole = cell(images[0])
    (tmp_path / "a.png").write_bytes(whole["bytes"])
    expected = decode_image(whole, 64)
    assert torch.equal(decode_image(image_cell(whole["bytes"]), 64), expected)
    assert torch.equal(decode_image(image_cell(str(tmp_path / "a.png")), 64), expected)
    assert decode_image(image_cell(3), 64) == "no image"


def test_damaged_and_missing_images_give_their_reason(images, tmp_path):
    whole = cell(images[0])["bytes"]
    assert decode_image({"bytes": whole[: len(whole) // 2], "path": None}, 64) == "image does not decode"
    assert decode_image({"bytes": b"no image at all", "path": None}, 64) == "image does not decode"
    assert decode_image({"bytes": b"", "path": None}, 64) == "image does not decode"
    assert decode_image({"bytes": None, "path": str(tmp_path / "gone.png")}, 64) == "image does not decode"
    assert decode_image(None, 64) == "no image"
    assert decode_image({"bytes": None, "path": None}, 64) == "no image"


def test_damaged_images_leave_the_batch_and_are_named(dataset, images):
    cells = [cell(image) for image in images[:3]]
    cells[1] = {"bytes": b"broken", "path": None}
    built = dataset(make_rows(cells, en=["frog", "cat", "dog"]), ("en",), max_skip_share=0.5)
    batch = built.collate([(row, 0, built[row]) for row in range(3)])
    assert batch["skipped"] == [(1, "image does not decode")]
    assert batch["rows"].tolist() == [0, 2] and batch["owner"].tolist() == [0, 1]
    assert built.collate([(1, 0, built[1])]) == {"skipped": [(1, "image does not decode")]}


def test_a_damaged_image_is_replaced_by_the_next_one_so_that_batches_stay_full(dataset, images):
    cells = [cell(image) for image in images[:4]]
    cells[1] = {"bytes": b"broken", "path": None}
    built = dataset(make_rows(cells, en=["frog", "cat", "dog", "fox"]), ("en",), max_skip_share=0.5)
    loader = make_loader(built, order(batch_size=1, stop=4))
    rows = [batch["rows"].item() for batch in loader]
    assert sorted(rows) == [0, 2, 2, 3]
    assert loader.skipped.causes == {1: "image does not decode"}
    assert loader.state() == {"causes": [[1, "image does not decode"]]}


def test_data_without_one_image_that_decodes_are_refused(dataset):
    built = dataset(make_rows([{"bytes": b"broken", "path": None}] * 2, en=["frog", "cat"]), ("en",))
    with pytest.raises(ValueError, match="no image of 'tiny' decodes"):
        list(make_loader(built, order(batch_size=1, stop=1)))


def test_memory_gives_the_same_images(dataset):
    kept, fresh = dataset(in_memory=True), dataset()
    for _ in range(2):
        assert torch.equal(kept[7], fresh[7])


# order


def test_an_epoch_is_a_permutation_and_the_next_one_another():
    rows = np.arange(3, 43)  # 40 rows, 5 steps an epoch
    first, second = ([r for batch in key_batches(rows, start=s, stop=s + 5) for r, _ in batch] for s in (0, 5))
    assert sorted(first) == sorted(second) == rows.tolist()
    assert first != second and first != sorted(first)


@pytest.mark.parametrize("num_views", [0, 3])
def test_a_start_at_any_step_continues_the_unbroken_run(num_views):
    whole = list(key_batches(range(27), num_views=num_views, stop=12))
    for start in (1, 5, 11):
        assert list(key_batches(range(27), num_views=num_views, start=start, stop=12)) == whole[start:]


def test_another_seed_gives_another_order():
    assert list(key_batches(range(27))) != list(key_batches(range(27), seed=1))


def test_processes_share_each_global_batch_without_overlap():
    alone = list(key_batches(range(40), batch_size=8))
    parts = [list(key_batches(range(40), batch_size=4, rank=rank, num_processes=2)) for rank in (0, 1)]
    assert [left + right for left, right in zip(*parts, strict=True)] == alone


def test_cached_views_take_turns_evenly():
    seen = Counter(key for batch in key_batches(range(16), num_views=3, stop=6) for key in batch)  # three epochs
    assert set(seen) == {(row, view) for row in range(16) for view in range(3)} and set(seen.values()) == {1}


def test_without_a_cache_every_epoch_has_a_new_view():
    views = [{view for batch in key_batches(range(16), start=s, stop=s + 2) for _, view in batch} for s in (0, 2, 4)]
    assert views == [{0}, {1}, {2}]


def test_a_batch_larger_than_the_data_takes_rows_of_the_next_epoch():
    (batch,) = key_batches(range(5), batch_size=12, stop=1)
    assert Counter(row for row, _ in batch[:10]) == dict.fromkeys(range(5), 2) and len(batch) == 12


def test_worker_processes_give_the_same_batches(dataset):
    loaded = []
    for workers in (0, 2):
        built = dataset(workers=workers)
        loaded.append(list(make_loader(built, order(stop=3))))
    for ours, theirs in zip(*loaded, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name

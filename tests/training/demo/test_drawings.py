"""Drawings and their names: which emoji, which styles, which split."""

import io
import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from training.corpus.emoji import read_concepts
from training.demo import drawings

THINGS = ("🦏", "⛵", "🧑‍🍳", "👨‍🍳", "👩‍🍳")
RHINO = THINGS[0]


@pytest.fixture(scope="module")
def concepts():
    return {concept.emoji: concept for concept in read_concepts()}


@pytest.fixture
def packages(tmp_path):
    """The two npm packages with a drawing or two."""
    fluent, noto = tmp_path / "fluent", tmp_path / "noto"
    (fluent / "assets").mkdir(parents=True)
    noto.mkdir()
    half = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    half.paste((200, 0, 0, 255), (0, 0, 8, 16))
    half.save(fluent / "assets" / "1f98f.webp", lossless=True)
    (noto / "chars.json").write_text(json.dumps({"26f5": "sailboat", "1f98f": "missing"}))
    body = '<rect width="128" height="128" fill="#00c800"/>'
    icons = {"width": 128, "height": 128, "icons": {"sailboat": {"body": body}}}
    (noto / "icons.json").write_text(json.dumps(icons))
    return {"--fluent": str(fluent), "--noto": str(noto)}


def run(packages, tmp_path, monkeypatch, concepts):
    monkeypatch.setattr(drawings, "read_concepts", lambda: [concepts[emoji] for emoji in THINGS if emoji in concepts])
    arguments = [part for pair in packages.items() for part in pair]
    drawings.main([*arguments, "--output_dir", str(tmp_path / "out"), "--size", "16"])
    return {name: pq.read_table(tmp_path / "out" / name).to_pylist() for name in drawings.WRITTEN[:2]}


def test_things_are_drawn_in_each_style_with_their_names(packages, tmp_path, monkeypatch, concepts):
    monkeypatch.setattr(drawings, "is_for_validation", lambda concept: concept.emoji == RHINO)
    tables = run(packages, tmp_path, monkeypatch, concepts)
    validation = tables["drawings_validation.parquet"]
    assert {(row["style"], row["en"], row["zh"]) for row in validation} == {
        (style, "rhinoceros", "犀牛") for style in ("openmoji", "twemoji", "fluent")
    }
    boats = [row for row in tables["drawings.parquet"] if row["en"][0] == "sailboat"]
    assert sorted(row["style"] for row in boats) == ["noto", "twemoji"]
    assert boats[0]["zh"][:2] == ["帆船", "帆船的图画"] and boats[0]["en"][1] == "a drawing of a sailboat."
    names = json.loads((tmp_path / "out" / "class_names.json").read_text(encoding="utf-8"))
    assert names == [{"en": "rhinoceros", "zh": "犀牛"}]


def test_drawings_are_on_white(packages, tmp_path, monkeypatch, concepts):
    monkeypatch.setattr(drawings, "is_for_validation", lambda concept: concept.emoji == RHINO)
    tables = run(packages, tmp_path, monkeypatch, concepts)
    rows = [row for table in tables.values() for row in table]
    [fluent] = [row for row in rows if row["style"] == "fluent"]
    [noto] = [row for row in rows if row["style"] == "noto"]
    opened = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in (fluent, noto)]
    assert opened[0].getpixel((2, 8)) == (200, 0, 0) and opened[0].getpixel((13, 8)) == (255, 255, 255)
    assert opened[1].getpixel((8, 8)) == (0, 200, 0)


def test_what_no_photograph_shows_is_left_out(concepts):
    assert not any(drawings.is_thing(concepts[emoji]) for emoji in ("🇨🇳", "🏴‍☠️", "#️⃣", "👍🏽"))
    assert all(drawings.is_thing(concepts[emoji]) for emoji in ("🦏", "👍", "👩‍🍳"))


def test_variants_of_a_thing_are_in_the_same_split(concepts):
    cooks = [concepts[emoji] for emoji in THINGS[2:] if emoji in concepts]
    assert len(cooks) > 1 and len({drawings.is_for_validation(cook) for cook in cooks}) == 1
    share = sum(map(drawings.is_for_validation, concepts.values())) / len(concepts)
    assert 0.1 < share < 0.3


@pytest.mark.parametrize("option", ["--fluent", "--noto"])
def test_another_folder_is_refused(packages, tmp_path, monkeypatch, concepts, option, capsys):
    with pytest.raises(SystemExit):
        run(packages | {option: str(tmp_path)}, tmp_path, monkeypatch, concepts)
    message = capsys.readouterr().err
    assert option.removeprefix("--") in message and "Unpack" in message
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())

"""Maps between embedding spaces, and an index that a model of another space searches through one."""

import json
from pathlib import Path

import numpy as np
import pytest

from modeling_dcclip import command
from modeling_dcclip.adapt_dcclip import adapt_index, fit_map, mean_cosine
from modeling_dcclip.index_dcclip import Index
from tests.modeling.color_model import save_color_model


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    return unit(np.random.default_rng(0).standard_normal((600, 24)))


def test_a_rotation_is_found_exactly(source):
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((24, 24)))[0].astype(np.float32)
    fitted = fit_map(source, source @ rotation)
    np.testing.assert_allclose(fitted.matrix, rotation, atol=1e-4)
    assert fitted.cosine == pytest.approx(1, abs=1e-4) and fitted.num_pairs == 600


@pytest.mark.parametrize("dimension", [16, 32])
def test_a_low_rank_correction_is_found_between_spaces_of_any_dimension(source, dimension):
    random = np.random.default_rng(2)
    basis = np.linalg.qr(random.standard_normal((32, 32)))[0][:24, :dimension]
    bend = random.standard_normal((24, 3)) @ random.standard_normal((3, dimension)) / 6
    target = unit(source @ (basis + bend))
    fitted = fit_map(source, target)
    assert fitted.matrix.shape == (24, dimension) and fitted.rank > 0
    assert fitted.cosine > 0.97 and fitted.cosine > fitted.orthogonal_cosine + 0.05


def test_the_quality_is_that_of_held_out_pairs(source):
    unrelated = unit(np.random.default_rng(3).standard_normal((600, 24)))
    assert abs(fit_map(source, unrelated).cosine) < 0.15
    assert mean_cosine(3 * source, source) == pytest.approx(1)


def test_too_few_pairs_are_refused(source):
    with pytest.raises(ValueError, match=r"sample: 47 photographs are too few .* needs at least 48.*--upgrade MODEL"):
        fit_map(source[:47], source[:47])


@pytest.fixture
def index(tmp_path, color_model, paint):
    for number in range(60):
        paint(
            tmp_path / "photos" / f"{number}.jpg", ("red", "green", "blue", "yellow", "white")[number % 5], 20 + number
        )
    with Index.open(tmp_path / "index", color_model, create=True) as index:
        index.add(tmp_path / "photos")
        yield index


@pytest.fixture
def other_model(tmp_path) -> Path:
    return save_color_model(tmp_path / "other", turn=3)


def test_another_model_searches_through_the_map(index, other_model):
    with pytest.raises(ValueError, match=r"another embedding space.*dcclip adapt --model FOLDER"):
        Index.open(index.folder, other_model)
    fitted = adapt_index(index, other_model)
    assert fitted.num_pairs == 60 and fitted.cosine > 0.99
    with Index.open(index.folder, other_model) as other:
        for text, number in {"红": 0, "green": 1, "蓝": 2, "yellow": 3}.items():
            assert int(Path(other.search(text, top=1)[0].path).stem) % 5 == number
        (facts,) = other.manifest["maps"].values()
        assert facts["model"] == str(other_model) and facts["cosine"] == pytest.approx(fitted.cosine)
        with pytest.raises(ValueError, match="Only that model may add to it"):
            other.add()
    assert Index.open(index.folder).search("red") == index.search("red")


def test_a_model_of_the_same_space_needs_no_map(index, color_model):
    with pytest.raises(ValueError, match="shares the embedding space of the index, and needs no map"):
        adapt_index(index, color_model)


def test_photographs_that_changed_or_broke_are_left_out(index, other_model, paint, tmp_path):
    (tmp_path / "photos" / "1.jpg").write_bytes(b"damaged")
    (tmp_path / "photos" / "2.jpg").unlink()
    paint(tmp_path / "photos" / "3.jpg", "red", 300)
    assert adapt_index(index, other_model).num_pairs == 57
    with pytest.raises(ValueError, match="sample: 9 photographs are too few"):
        adapt_index(index, other_model, sample=10)


def test_the_command_adapts(index, other_model, color_model, capsys):
    options = ["--index", str(index.folder)]
    command.main(["adapt", "--model", str(other_model), *options])
    assert "from 60 images; mean cosine on held-out images 0.99" in capsys.readouterr().out.replace("1.000", "0.999")
    command.main(["adapt", "--model", str(other_model), *options, "--json"])
    assert set(json.loads(capsys.readouterr().out)) == {"rank", "cosine", "orthogonal_cosine", "num_pairs"}
    command.main(["search", "黄", "--top", "1", "--model", str(other_model), *options])
    assert int(Path(capsys.readouterr().out.strip()).stem) % 5 == 3
    for arguments, message in {("--sample", "0"): "sample: got 0", ("--model", str(color_model)): "no map"}.items():
        with pytest.raises(SystemExit):
            command.main(["adapt", "--model", str(other_model), *arguments, *options])
        assert message in capsys.readouterr().err

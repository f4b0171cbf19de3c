"""A tiny exported model in its page, served on localhost, and Chromium."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image
from sentencepiece import SentencePieceTrainer
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers.convert_slow_tokenizer import import_protobuf

from tests.browser import Visit, open_browser, serving
from tests.local_server import free_port
from tests.tiny import CUT_EFFICIENTNET, make_model
from training.edge.web import LIBRARIES, WebOptions, write_page


@pytest.fixture(scope="package")
def node_modules() -> Path:
    folder = Path(WebOptions().node_modules)
    if not all((folder / source).is_file() for source in LIBRARIES.values()):
        pytest.skip("run `npm ci --ignore-scripts --prefix model_cards/web`")
    return folder


@pytest.fixture(scope="package")
def model(processor):
    return make_model(CUT_EFFICIENTNET)


@pytest.fixture(scope="package")
def xlm_r_tokenizer(train_rows) -> Tokenizer:
    """A tokenizer with the pieces, normaliser and pre-tokenizer of XLM-R, trained on the tiny corpus."""
    trained = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([*train_rows["en"], *train_rows["zh"]]),
        model_writer=trained,
        vocab_size=700,
        hard_vocab_limit=False,  # the corpus may have fewer
        character_coverage=0.99,
        minloglevel=2,
    )
    proto = import_protobuf().ModelProto.FromString(trained.getvalue())
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


@pytest.fixture(scope="package")
def exported(model, processor, images, tmp_path_factory) -> Path:
    """As `training/export.py` leaves a folder, without its gate."""
    graphs = pytest.importorskip("training.edge.graphs", reason='pip install -e ".[edge]"')
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    (folder / "onnx").mkdir(parents=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for tower in ("vision", "text"):
        graphs.trace(model, tower, folder / "onnx" / f"{tower}_model.onnx")
    images[0].save(folder / "example.png")
    return folder


@pytest.fixture(scope="package")
def photos(images, tmp_path_factory) -> Path:
    """Images of various shapes: wide, high, large, small, transparent."""
    folder = tmp_path_factory.mktemp("photos")
    for number, (image, size) in enumerate(
        zip(images, [(150, 100), (77, 131), (900, 640), (64, 64), (40, 50)], strict=False)
    ):
        image.resize(size, Image.Resampling.LANCZOS).save(folder / f"{number}.png")
    shape = Image.new("L", (64, 64), 0)
    shape.paste(255, (10, 10, 50, 50))
    transparent = images[1].convert("RGBA")
    transparent.putalpha(shape)
    transparent.save(folder / "5.png")
    return folder


@pytest.fixture(scope="package")
def address(exported, node_modules, corpus, tmp_path_factory):
    cwd, port = tmp_path_factory.mktemp("web"), free_port()
    write_page(WebOptions(model=str(exported), images=str(corpus / "train.parquet"), output_dir=str(cwd / "site")))
    arguments = ["-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(cwd / "site")]
    with serving(arguments, port, cwd, dict(os.environ)) as address:
        yield address


@pytest.fixture(scope="package")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def visit(browser, address) -> Visit:
    """The page after its model and its images are loaded."""
    visit = Visit(browser, address)
    visit.page.wait_for_selector("body[data-ready-ms]")
    visit.page.wait_for_selector("#found li", state="attached")
    yield visit
    assert not visit.errors
    assert not visit.foreign()
    visit.page.close()

"""Pages that phones are full of and captions hardly ever name: chats, receipts, documents and QR codes, drawn.

Half of the pages look photographed, on a blurred photograph. Pages for validation have a font of their own.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from training.experiments.corpus.pretrained import PackagedFile
from training.text.writing_systems import LANGUAGES

SIZE = 384  # px, longer side
LINE = 1.35  # height of a line over the size of its letters
MODULES = 29  # edge of a QR code
WHITE, GRAY = (255, 255, 255), (150, 150, 150)
# Noto CJK, SIL Open Font License
FONT = PackagedFile(
    "mplfonts==0.0.11",
    "fonts/NotoSansCJKsc-Regular.otf",
    "1652500938055a232cfbfa321de6ebaadfc5635dd9f75e369bc991d14a6512dd",
)
HELD_OUT_FONT = PackagedFile(
    "mplfonts==0.0.11",
    "fonts/NotoSerifCJKsc-Regular.otf",
    "efa5e49879a789c1ecad8f07e1813c7f9aa6c4b951fdbb5791d85d67345632d7",
)


class _Page:
    """A page that is being drawn.

    Args:
        rng: Source of all that varies.
        sentences: Texts for it, in one language.
        font: Path of the font.
        ratio: Width over height.
    """

    def __init__(
        self, rng: np.random.Generator, sentences: Sequence[str], font: Path, ratio: float
    ):
        self.rng, self.sentences, self.font = rng, sentences, font
        self.accent = tuple(rng.integers(40, 200, 3).tolist())
        self.ink = tuple(rng.integers(0, 64, 3).tolist())
        self.image = Image.new("RGB", (round(SIZE * ratio), SIZE), WHITE)
        self.draw = ImageDraw.Draw(self.image)
        self.width, self.height = self.image.size

    def sentence(self, longest: int = 80) -> str:
        """A random text, cut to a length."""
        number = int(self.rng.integers(len(self.sentences)))
        return self.sentences[number][:longest]

    def text(
        self, x: float, y: float, text: str, size: float, width: float = SIZE, color: Any = None
    ) -> float:
        """Draw a text in lines of a width, and return the height where they end."""
        font = ImageFont.truetype(self.font, round(size))
        per_line = max(1, int(width / (font.getlength(text) / max(1, len(text)) or 1)))
        for start in range(0, len(text), per_line):
            line = text[start : start + per_line].strip()
            self.draw.text((x, y), line, color or self.ink, font)
            y += LINE * size
        return y


def _chat(page: _Page):
    rng, y = page.rng, 50.0
    page.text(30, 18, page.sentence(9), 13)
    page.draw.rectangle((0, 40, page.width, 41), page.accent)
    while y < page.height - 60:
        size = rng.uniform(9, 12)
        width = page.width * 0.62
        left, color = 36.0, GRAY
        if rng.random() < 0.5:  # own message
            left, color = page.width - width - 12, page.accent
        text = page.sentence(60)
        end = page.text(left, y + 4, text, size, width)  # finds the height
        page.draw.rounded_rectangle((left - 8, y, left + width + 8, end + 4), 8, color)
        page.text(left, y + 4, text, size, width, WHITE)
        y = end + rng.uniform(8, 18)
    page.draw.rounded_rectangle((8, page.height - 30, page.width - 8, page.height - 8), 8, GRAY)


def _receipt(page: _Page):
    rng = page.rng
    y = page.text(page.width * 0.2, 10, page.sentence(10), 15)
    y = page.text(10, y, f"{rng.integers(10**9):010} {rng.integers(10, 28)}:30", 8)
    page.draw.line((8, y + 4, page.width - 8, y + 4), page.ink)
    y += 10
    prices = rng.uniform(1, 200, rng.integers(4, 14))
    for price in prices:
        page.text(page.width - 52, y, f"{price:.2f}", 10)
        y = page.text(10, y, page.sentence(9), 10)
    page.text(page.width - 80, y + 8, f"¥{prices.sum():.2f}", 15)
    for x in np.cumsum(rng.uniform(3, 8, 100)):  # a bar code
        if 20 < x < page.width - 20:
            bar = (x, page.height - 34, x + rng.uniform(1, 3), page.height - 12)
            page.draw.rectangle(bar, page.ink)


def _document(page: _Page):
    margin = page.rng.uniform(20, 36)
    size = page.rng.uniform(7, 10)
    width = page.width - 2 * margin
    y = page.text(margin, margin, page.sentence(16), 16, width)
    while y < page.height - margin - 10 * size:
        paragraph = " ".join(page.sentence() for _ in range(page.rng.integers(1, 5)))
        y = page.text(margin, y, paragraph, size, width) + size


def _code(page: _Page):
    modules = page.rng.random((MODULES, MODULES)) < 0.5
    for rows, columns in ((0, 0), (0, MODULES - 8), (MODULES - 8, 0)):  # squares in three corners
        modules[rows : rows + 8, columns : columns + 8] = False
        corner = modules[rows and rows + 1 :, columns and columns + 1 :][:7, :7]
        corner[:] = True
        corner[1:-1, 1:-1] = False
        corner[2:-2, 2:-2] = True
    edge = round(page.width * page.rng.uniform(0.5, 0.8))
    square = Image.fromarray(np.where(modules, 0, 255).astype(np.uint8))
    left, top = (page.width - edge) // 2, (page.height - edge) // 2
    page.draw.rectangle((0, 0, page.width, top // 2), page.accent)
    page.image.paste(square.resize((edge, edge), Image.Resampling.NEAREST), (left, top))
    page.text(left, top + edge + 16, page.sentence(18), 12)


# function, lowest and highest ratio of width to height, captions in English and Chinese
_KINDS = (
    (
        _chat,
        (0.46, 0.6),
        "a screenshot of a chat; a chat on a phone; a screenshot of text messages; messages on a screen",
        "聊天截图; 聊天记录; 微信聊天记录的截图; 手机上的对话",
    ),
    (
        _receipt,
        (0.38, 0.6),
        "a receipt; a receipt from a shop; a till receipt with prices; a bill",
        "小票; 购物小票; 收据; 超市的收银小票; 账单",
    ),
    (
        _document,
        (0.68, 0.8),
        "a document; a page of text; a printed letter; a scanned document",
        "文件; 一页文字; 打印的文档; 扫描的文件",
    ),
    (
        _code,
        (0.6, 1),
        "a QR code; a QR code to scan; a payment code",
        "二维码; 可以扫的码; 付款二维码",
    ),
)


def _photographed(
    page: Image.Image, rng: np.random.Generator, background: Image.Image
) -> Image.Image:
    """A page as a camera sees it: tilted, in uneven light, on a blurred photograph."""
    width, height = (round(edge * rng.uniform(1.2, 1.6)) for edge in page.size)
    blur = ImageFilter.GaussianBlur(rng.uniform(2, 8))
    scene = background.convert("RGB").resize((width, height)).filter(blur)
    scene.paste(page, ((width - page.width) // 2, (height - page.height) // 2))
    # points near the corners of the scene become the corners of the image
    corners = np.array([[0.1, 0.1], [0.1, 0.9], [0.9, 0.9], [0.9, 0.1]])
    corners += rng.uniform(-0.09, 0.09, corners.shape)
    quad = (corners * (width, height)).flatten().tolist()
    bilinear = Image.Resampling.BILINEAR
    scene = scene.transform(scene.size, Image.Transform.QUAD, quad, bilinear)
    top, bottom = rng.uniform(0.7, 1.1, 2)
    light = np.linspace(top, bottom, height)[:, None, None]
    return Image.fromarray((np.asarray(scene) * light).clip(0, 255).astype(np.uint8))


def write_pages(
    path: Path,
    num: int,
    sentences: dict[str, Sequence[str]],
    backgrounds: Sequence[Image.Image],
    *,
    held_out: bool,
    seed: int,
):
    """Write pages with captions of what they are; the kinds take turns, and the first caption names the kind.

    Args:
        path: Parquet file to write, with `image`, a JPEG file, and the lists `en` and `zh`.
        num: Number of pages.
        sentences: Texts for them, by language.
        backgrounds: Photographs behind the pages.
        held_out: Whether to use the font for validation.
        seed: Seed of everything that varies.

    Raises:
        ValueError: The package with the fonts is missing, or a file of it has a wrong hash.
    """
    font = (HELD_OUT_FONT if held_out else FONT).find()
    rows = []
    for number in range(num):
        rng = np.random.default_rng([seed, held_out, number])
        language = list(sentences)[rng.integers(len(sentences))]
        draw, ratios, *captions = _KINDS[number % len(_KINDS)]
        page = _Page(rng, sentences[language], font, rng.uniform(*ratios))
        draw(page)
        image = page.image
        if rng.random() < 0.5:
            image = _photographed(image, rng, backgrounds[int(rng.integers(len(backgrounds)))])
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(60, 95)))
        row: dict[str, object] = {"image": {"bytes": file.getvalue(), "path": None}}
        for name, texts in zip(LANGUAGES, captions, strict=True):
            row[name] = texts.split("; ")
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), path)

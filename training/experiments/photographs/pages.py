"""Pages of the kinds that phones are full of, drawn with text in two languages: chats, receipts, QR codes and others.

Captioned photographs hardly ever show them. Half of the paper, boards and slides look photographed, on a blurred
photograph. Designs differ in hue, font and layout; the last one is for validation.
"""

import colorsys
import io
import itertools
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from training.experiments.corpus.pretrained import PackagedFile
from training.text.writing_systems import LANGUAGES

SIZE = 384  # px, longer side
LINE = 1.35  # height of a line over the size of its letters
Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)
GRAY: Color = (150, 150, 150)
PENS: tuple[Color, ...] = ((30, 40, 150), (170, 30, 30), (20, 110, 50), (30, 30, 30))
BOX_WITH_ARROW = np.array(
    [[0, 0], [70, 0], [70, 36], [0, 36], [0, 0], [70, 18], [110, 18], [102, 12]]
)
# Noto CJK, SIL Open Font License
_FONTS = (
    PackagedFile(
        "mplfonts==0.0.11",
        "fonts/NotoSansCJKsc-Regular.otf",
        "1652500938055a232cfbfa321de6ebaadfc5635dd9f75e369bc991d14a6512dd",
    ),
    PackagedFile(
        "mplfonts==0.0.11",
        "fonts/NotoSansMonoCJKsc-Regular.otf",
        "2b1dbdc50df666a00c50ecd77377e2394c6babd35a71e37505ab411ff55c7906",
    ),
    PackagedFile(
        "mplfonts==0.0.11",
        "fonts/NotoSerifCJKsc-Regular.otf",
        "efa5e49879a789c1ecad8f07e1813c7f9aa6c4b951fdbb5791d85d67345632d7",
    ),
)


class _Page:
    """A page that is being drawn.

    Args:
        rng: Source of all that varies.
        sentences: Texts for it, in one language.
        design: Index into `_FONTS`; also decides hue and layout.
        font: Path of the font.
        ratio: Width over height.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        sentences: Sequence[str],
        design: int,
        font: Path,
        ratio: float,
    ):
        self.rng, self.sentences, self.design, self.path = rng, sentences, design, font
        hue = (design + rng.random()) / len(_FONTS)
        self.accent = _color(hue, rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.85))
        self.ink = _color(0, 0, rng.uniform(0, 0.25))
        self.width = round(SIZE * min(ratio, 1))
        self.height = round(SIZE / max(ratio, 1))
        self.fill(_color(0, 0, rng.uniform(0.92, 1)))

    def fill(self, color: Color):
        """Start with an empty page."""
        self.image = Image.new("RGB", (self.width, self.height), color)
        self.draw = ImageDraw.Draw(self.image)

    def sentence(self, longest: int = 80) -> str:
        """A random text, cut to a length."""
        number = int(self.rng.integers(len(self.sentences)))
        return self.sentences[number][:longest]

    def lines(self, text: str, size: float, width: float) -> list[str]:
        """Break a text at spaces, or between characters if it has none."""
        font = _font(self.path, round(size))
        gap = " " if " " in text else ""
        words = text.split(" ") if gap else text
        lines = [""]
        for word in words:
            longer = f"{lines[-1]}{gap}{word}" if lines[-1] else word
            if lines[-1] and font.getlength(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        *,
        width: float = SIZE,
        color: Color | None = None,
        most: int = 1,
    ) -> float:
        """Draw at most `most` lines of a text, and return the height where they end."""
        for line in self.lines(text, size, width)[:most]:
            self.draw.text((x, y), line, color or self.ink, _font(self.path, round(size)))
            y += LINE * size
        return y

    def box(self, x: float, y: float, width: float, height: float, color: Color, radius: float = 0):
        """Draw a filled rectangle with round corners."""
        self.draw.rounded_rectangle((x, y, x + width, y + height), radius, color)


@lru_cache(256)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _color(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _phone(page: _Page) -> float:
    """Draw the top of a screen, sometimes a dark one, and return the height where its content begins."""
    rng = page.rng
    if rng.random() < 0.25:
        page.ink = (230, 230, 230)
        page.fill((24, 24, 24))
    page.text(8, 3, f"{rng.integers(24)}:{rng.integers(10, 60)}", 9)
    page.box(page.width - 28, 5, 18, 8, GRAY)
    left = (8, 60, 30)[page.design]
    page.text(left, 18, page.sentence(9), 13)
    page.box(0, 40, page.width, 1, page.accent)
    return 50


def _chat(page: _Page):
    rng = page.rng
    y = _phone(page)
    bubble_radius = (8, 3, 14)[page.design]
    portrait_radius = (0, 11, 11)[page.design]
    while y < page.height - 60:
        is_own = rng.random() < 0.5
        text = page.sentence(60)
        size = rng.uniform(9, 12)
        width = min(page.width * 0.62, len(text) * size)
        height = 10 + LINE * size * len(page.lines(text, size, width))
        left, color, portrait_left = 36.0, GRAY, 4
        if is_own:
            left, color, portrait_left = page.width - width - 44, page.accent, page.width - 30
        page.box(left - 8, y, width + 16, height, color, bubble_radius)
        page.text(left, y + 4, text, size, width=width, color=WHITE, most=99)
        portrait = _color(rng.random(), 0.5, 0.7)
        page.box(portrait_left, y, 22, 22, portrait, portrait_radius)
        y += height + rng.uniform(6, 16)
    page.box(8, page.height - 30, page.width - 16, 22, GRAY, 8)


def _settings(page: _Page):
    rng = page.rng
    y = _phone(page)
    while y < page.height - 24:
        page.box(8, y + 2, 16, 16, _color(rng.random(), 0.6, 0.8), 4)
        page.text(32, y + 3, page.sentence(12), 11, width=page.width * 0.55)
        color, knob_left = GRAY, page.width - 35
        if rng.random() < 0.5:  # switched on
            color, knob_left = page.accent, page.width - 24
        page.box(page.width - 36, y + 4, 26, 13, color, 6)
        page.box(knob_left, y + 5, 11, 11, WHITE, 5)
        y += rng.uniform(24, 27)
        page.box(8, y - 1, page.width, 1, GRAY)


def _receipt(page: _Page):
    rng = page.rng
    y = page.text(page.width * 0.2, 10, page.sentence(10), 15)
    y = page.text(10, y, f"{rng.integers(10**9):010} {rng.integers(10, 28)}:30", 8)
    rule = ("-", "=", "* ")[page.design] * 60
    y = page.text(8, y, rule, 9, width=page.width - 16)
    total = 0.0
    for _ in range(rng.integers(4, 14)):
        price = rng.uniform(1, 200)
        total += price
        page.text(page.width - 52, y, f"{price:.2f}", 10)
        y = page.text(10, y, page.sentence(9), 10, width=page.width - 66)
    currency = "¥$¥"[page.design]
    page.text(page.width - 80, y + 8, f"{currency}{total:.2f}", 15)
    for x in np.cumsum(rng.uniform(3, 8, 100)):  # a bar code
        if 20 < x < page.width - 20:
            page.box(x, page.height - 34, rng.uniform(1, 3), 22, page.ink)


def _document(page: _Page):
    rng = page.rng
    margin = rng.uniform(20, 36)
    size = rng.uniform(7, 10)
    width = page.width - 2 * margin
    end = page.height - margin
    indent = (0, 0, 40)[page.design]
    y = page.text(margin + indent, margin, page.sentence(16), 16, width=width, most=2)
    while y < end - 2 * size:
        sentences = [page.sentence() for _ in range(rng.integers(2, 7))]
        space = " " if " " in sentences[0] else ""
        paragraph = space.join(sentences)
        most = int((end - y) / size / LINE)
        y = page.text(margin, y, paragraph, size, width=width, most=most) + size
    if rng.random() < 0.3:  # a seal
        right, bottom = page.width - 40, page.height - 40
        page.draw.ellipse((right - 60, bottom - 60, right, bottom), None, PENS[1], 3)


def _code(page: _Page):
    import segno  # comes with the extra `photos`

    if page.design == 1:
        page.fill(page.accent)
    modules = segno.make(f"{page.sentence(60)}{page.rng.integers(10**9)}").matrix
    edge = round(min(page.width, page.height) * page.rng.uniform(0.5, 0.8))
    square = Image.fromarray(255 - 255 * np.array(modules, np.uint8))
    square = square.resize((edge, edge), Image.Resampling.NEAREST).convert("RGB")
    left = (page.width - edge) // 2
    top = (page.height - edge) // (2, 2, 3)[page.design]
    page.box(left - 12, top - 12, edge + 24, edge + 24, WHITE, 6)
    page.image.paste(square, (left, top))
    page.text(left, top + edge + 16, page.sentence(18), 12, width=edge)


def _slide(page: _Page):
    rng = page.rng
    if rng.random() < 0.3:
        page.fill(page.accent)
        page.ink = WHITE
    bars = ((0, 0, SIZE, 46), (0, 0, 14, SIZE), (0, page.height - 18, SIZE, 18))
    page.box(*bars[page.design], page.accent)
    page.text(26, 12, page.sentence(22), 20)
    y = 62.0
    for _ in range(rng.integers(2, 6)):
        point = "•–▪"[page.design] + page.sentence(40)
        width = page.width * rng.uniform(0.5, 0.9)
        y = page.text(34, y, point, 13, width=width, most=2) + 6
    if rng.random() < 0.4:  # a picture
        color = _color(rng.random(), 0.4, 0.8)
        page.box(page.width * 0.62, 80, page.width * 0.3, page.height * 0.4, color)


def _whiteboard(page: _Page):
    rng = page.rng
    frame = _color(0, 0, rng.uniform(0.35, 0.8))
    thickness = int(rng.integers(4, 10))
    page.draw.rectangle((0, 0, page.width - 1, page.height - 1), None, frame, thickness)
    for _ in range(rng.integers(4, 10)):
        pen = PENS[rng.integers(len(PENS))]
        x = rng.uniform(12, page.width * 0.7)
        y = rng.uniform(12, page.height - 40)
        if rng.random() < 0.35:
            points = BOX_WITH_ARROW * rng.uniform(0.6, 1.3)
            points += rng.normal(0, 2, points.shape)  # by hand
            points += (x, y)
            page.draw.line(points.flatten().tolist(), pen, 2)
            continue
        size = rng.uniform(12, 24)
        for letter in page.sentence(14):
            page.text(x, y + rng.normal(0, size * 0.12), letter, size, color=pen)
            x += size * (0.55 if letter.isascii() else 1.02)


def _table(page: _Page):
    rng = page.rng
    page.fill(WHITE)
    columns = int(rng.integers(3, 8))
    height = rng.uniform(15, 24)
    width = page.width / columns
    rows = round(page.height / height) + 1
    for row, column in itertools.product(range(rows), range(columns)):
        x, y = column * width, row * height
        color = page.accent if row == 0 else WHITE
        page.draw.rectangle((x, y, x + width, y + height), color, GRAY)
        is_head = row == 0 or column == 0
        words = page.sentence(6) if is_head else f"{rng.uniform(1, 200):.2f}"
        page.text(x + 3, y + 2, words, height * 0.5, width=width - 4)


# function, lowest and highest ratio of width to height, captions in English and Chinese
_KINDS = (
    (
        _chat,
        (0.46, 0.6),
        "a screenshot of a chat; a chat on a phone; a screenshot of text messages; messages on a screen",
        "聊天截图; 聊天记录; 微信聊天记录的截图; 手机上的对话",
    ),
    (
        _settings,
        (0.46, 0.6),
        "a screenshot of the settings; a screenshot of a phone; the settings of a phone",
        "设置界面的截图; 手机截图; 手机设置",
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
        (0.6, 1.2),
        "a QR code; a QR code to scan; a payment code",
        "二维码; 可以扫的码; 付款二维码",
    ),
    (
        _slide,
        (1.33, 1.78),
        "a slide; a presentation slide; a slide with bullet points",
        "幻灯片; 演示文稿; 讲座的幻灯片; PPT",
    ),
    (
        _whiteboard,
        (1.2, 1.9),
        "a whiteboard; notes on a whiteboard; a whiteboard with arrows",
        "白板; 白板上的笔记; 写满字的白板",
    ),
    (_table, (0.8, 1.6), "a spreadsheet; a table of numbers", "表格; 电子表格; 一张数据表"),
)
_ON_SCREEN = (_chat, _settings, _table)  # not photographed
# names of the kinds, in the order in which pages take turns
KINDS = {
    language: [captions[number].split("; ")[0] for _, _, *captions in _KINDS]
    for number, language in enumerate(LANGUAGES)
}


def _photographed(
    page: Image.Image, rng: np.random.Generator, background: Image.Image
) -> Image.Image:
    """A page as a camera sees it: tilted, in uneven light, on a blurred photograph."""
    width = round(page.width * rng.uniform(1.2, 1.6))
    height = round(page.height * rng.uniform(1.2, 1.6))
    blur = ImageFilter.GaussianBlur(rng.uniform(2, 8))
    scene = background.convert("RGB").resize((width, height)).filter(blur)
    scene.paste(page, ((width - page.width) // 2, (height - page.height) // 2))
    # points near the corners of the scene become the corners of the image
    corners = np.array([[0.1, 0.1], [0.1, 0.9], [0.9, 0.9], [0.9, 0.1]])
    corners += rng.uniform(-0.09, 0.09, corners.shape)
    corners *= (width, height)
    quad = corners.flatten().tolist()
    bilinear = Image.Resampling.BILINEAR
    scene = scene.transform(scene.size, Image.Transform.QUAD, quad, bilinear)
    left, right, top, bottom = rng.uniform(0.7, 1.1, 4)
    light = np.linspace(top, bottom, height)[:, None] * np.linspace(left, right, width)
    light = light[:, :, None] * rng.uniform(0.9, 1, 3)
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
    """Write pages with captions of what they are; the kinds take turns.

    Args:
        path: Parquet file to write, with `image`, a JPEG file, and the lists `en` and `zh`.
        num: Number of pages.
        sentences: Texts for them, by language.
        backgrounds: Photographs behind paper, boards and slides.
        held_out: Whether to draw the design for validation instead of the others.
        seed: Seed of everything that varies.

    Raises:
        ValueError: The package with the fonts is missing, or a file of it has a wrong hash.
    """
    fonts = [font.find() for font in _FONTS]
    rows = []
    for number in range(num):
        rng = np.random.default_rng([seed, held_out, number])
        design = len(fonts) - 1
        if not held_out:
            design = int(rng.integers(design))
        language = list(sentences)[rng.integers(len(sentences))]
        draw, ratios, *captions = _KINDS[number % len(_KINDS)]
        page = _Page(rng, sentences[language], design, fonts[design], rng.uniform(*ratios))
        draw(page)
        image = page.image
        if draw not in _ON_SCREEN and rng.random() < 0.5:
            image = _photographed(image, rng, backgrounds[int(rng.integers(len(backgrounds)))])
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(60, 95)))
        row: dict[str, object] = {"image": {"bytes": file.getvalue(), "path": None}}
        for name, texts in zip(LANGUAGES, captions, strict=True):
            row[name] = texts.split("; ")
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), path)

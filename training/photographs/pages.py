"""Pages of the kinds that phones are full of, drawn with text in two languages: chats, receipts, QR codes and others.

Captioned photographs hardly ever show them. Half of the paper, boards and slides look photographed, on a blurred
photograph. Designs differ in hues, font and arrangement; the last one is for validation.
"""

import colorsys
import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from training.students.pretrained import PackagedFile
from training.text.writing_systems import LANGUAGES

SIZE = 384  # px, longer side
LINE = 1.35  # height of a line over the size of its letters
Color = tuple[int, int, int]
Fill = Color | None
WHITE: Color = (255, 255, 255)
_DESIGNS = tuple(  # fonts: Noto CJK, SIL Open Font License
    PackagedFile("mplfonts==0.0.11", f"fonts/Noto{name}CJKsc-Regular.otf", sha256)
    for name, sha256 in (
        ("Sans", "1652500938055a232cfbfa321de6ebaadfc5635dd9f75e369bc991d14a6512dd"),
        ("SansMono", "2b1dbdc50df666a00c50ecd77377e2394c6babd35a71e37505ab411ff55c7906"),
        ("Serif", "efa5e49879a789c1ecad8f07e1813c7f9aa6c4b951fdbb5791d85d67345632d7"),
    )
)


class _Page:
    """A page that is being drawn.

    Args:
        rng: Source of all that varies.
        sentences: Texts for it, in one language.
        design: Index into `_DESIGNS`.
        font: Gives the design's font in a size.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        sentences: Sequence[str],
        design: int,
        font: Callable[[int], ImageFont.FreeTypeFont],
    ):
        self.rng, self.sentences, self.design, self.font = rng, sentences, design, font
        # each design has a third of the hues
        self.accent = _hsv(
            (design + rng.random()) / len(_DESIGNS), rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.85)
        )
        self.ink, self.paper = _gray(rng, 0, 70), _gray(rng, 235, 256)

    def open(self, ratio: float, color: Color):
        """Start with an empty page of a ratio of width to height."""
        self.width, self.height = round(SIZE * min(ratio, 1)), round(SIZE / max(ratio, 1))
        self.image = Image.new("RGB", (self.width, self.height), color)
        self.draw = ImageDraw.Draw(self.image)

    def sentence(self, longest: int = 80) -> str:
        """A random text, cut to a length."""
        return self.sentences[int(self.rng.integers(len(self.sentences)))][:longest]

    def price(self) -> str:
        """A random price."""
        return f"{self.rng.uniform(1, 200):.2f}"

    def lines(self, text: str, size: float, width: float) -> list[str]:
        """Break a text at spaces, or between characters if it has none."""
        gap = " " if " " in text else ""
        lines = [""]
        for word in text.split(" ") if gap else text:
            longer = f"{lines[-1]}{gap}{word}" if lines[-1] else word
            if lines[-1] and self.font(round(size)).getlength(longer) > width:
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
        width=float(SIZE),
        color: Fill = None,
        most=99,
    ) -> float:
        """Draw at most `most` lines of a text, and return the height where they end."""
        for line in self.lines(text, size, width)[:most]:
            self.draw.text(
                (x, y), line, self.ink if color is None else color, self.font(round(size))
            )
            y += LINE * size
        return y

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: Fill = None,
        line: Fill = None,
        radius=0.0,
    ):
        """Draw a rectangle with round corners."""
        self.draw.rounded_rectangle((x, y, x + width, y + height), radius, fill, line, 2)


def _hsv(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _gray(rng: np.random.Generator, low: int, high: int) -> Color:
    level = int(rng.integers(low, high))
    return level, level, level


def _phone(page: _Page, title: str) -> float:
    """Draw an empty screen of a phone with its title, and return the height where its content begins."""
    dark = page.rng.random() < 0.25
    page.ink, page.paper = ((230, 230, 230), (24, 24, 24)) if dark else (page.ink, page.paper)
    page.open(page.rng.uniform(0.46, 0.6), page.paper)
    page.text(8, 3, f"{page.rng.integers(24)}:{page.rng.integers(10, 60)}", 9)
    page.box(page.width - 28, 5, 18, 8, line=page.ink)
    page.text((8, 60, 30)[page.design], 18, title, 13, most=1)
    page.draw.line((0, 40, page.width, 40), page.accent if page.design == 2 else (128, 128, 128))
    return 50


def _chat(page: _Page, rng: np.random.Generator):
    y = _phone(page, page.sentence(10))
    own_color, color = page.accent, (70, 70, 70) if page.ink[0] > 128 else (222, 222, 222)
    while y < page.height - 60:
        own, size = rng.random() < 0.5, rng.uniform(9, 12)
        text = page.sentence(60)
        width = min(page.width * 0.62, len(text) * size)
        left = page.width - width - 44 if own else 36
        bottom = y + 10 + LINE * size * len(page.lines(text, size, width))
        page.box(
            left - 8,
            y,
            width + 16,
            bottom - y,
            own_color if own else color,
            radius=(8, 3, 14)[page.design],
        )
        page.text(left, y + 4, text, size, width, WHITE if own else page.ink)
        if page.design != 1 or rng.random() < 0.5:
            left = page.width - 30 if own else 4
            page.box(left, y, 22, 22, _hsv(rng.random(), 0.5, 0.7), radius=11 * (page.design != 0))
        y = bottom + rng.uniform(6, 16)
    page.box(8, page.height - 30, page.width - 16, 22, line=(128, 128, 128), radius=8)


def _settings(page: _Page, rng: np.random.Generator):
    y = _phone(page, page.sentence(8))
    while y < page.height - 24:
        page.text(
            32 if page.design != 1 else 10, y + 3, page.sentence(12), 11, page.width * 0.55, most=1
        )
        if page.design != 1:
            page.box(8, y + 2, 16, 16, _hsv(rng.random(), 0.6, 0.8), radius=4)
        on = rng.random() < 0.5
        page.box(page.width - 36, y + 4, 26, 13, page.accent if on else (170, 170, 170), radius=6)
        page.box(page.width - (24 if on else 35), y + 5, 11, 11, (250, 250, 250), radius=5)
        y += rng.uniform(24, 27)
        page.draw.line((8, y - 1, page.width, y - 1), (150, 150, 150))


def _receipt(page: _Page, rng: np.random.Generator):
    page.open(rng.uniform(0.38, 0.6), page.paper)
    y = page.text(page.width * 0.2, 10, page.sentence(10), 15, page.width * 0.7, most=1) + 4
    y = page.text(
        10, y, f"2{rng.integers(10**9):010} {rng.integers(10, 28)}-0{rng.integers(1, 9)}", 8
    )
    rule = ("-" * 60, "=" * 60, "* " * 40)[page.design]
    y, total = page.text(8, y, rule, 9, page.width - 16, most=1), 0.0
    for _ in range(rng.integers(4, 14)):
        if y > page.height - 90:
            break
        price = page.price()
        total += float(price)
        page.text(page.width - 52, y, price, 10)
        y = page.text(10, y, page.sentence(9), 10, page.width - 66, most=1) + 2
    y = page.text(8, y, rule, 9, page.width - 16, most=1)
    page.text(page.width - 80, y, f"{'¥$'[page.design % 2]}{total:.2f}", 15)
    if page.design != 1:
        x = 20.0
        while x < page.width - 20:
            bar = rng.uniform(1, 4)
            page.draw.rectangle((x, page.height - 34, x + bar, page.height - 12), page.ink)
            x += bar + rng.uniform(1, 4)


def _document(page: _Page, rng: np.random.Generator):
    page.open(rng.uniform(0.68, 0.8), page.paper)
    margin, size = rng.uniform(20, 36), rng.uniform(7, 10)
    y = (
        page.text(
            margin + 40 * (page.design == 2),
            margin,
            page.sentence(16),
            16,
            page.width - 2 * margin,
            most=2,
        )
        + 8
    )
    while y < page.height - margin - 2 * size:
        gap = " " if " " in page.sentence() else ""
        paragraph = gap.join(page.sentence() for _ in range(rng.integers(2, 7)))
        most = int((page.height - margin - y) / size / 1.35) or 1
        y = page.text(
            margin, y, paragraph, size, page.width - 2 * margin, most=most
        ) + size * rng.uniform(0.2, 1)
    if rng.random() < 0.3:  # a seal
        right, bottom = page.width - 40, page.height - 40
        page.draw.ellipse((right - 60, bottom - 60, right, bottom), None, (200, 30, 30), 3)


def _code(page: _Page, rng: np.random.Generator):
    import segno  # of the extra `photos`

    page.open(rng.uniform(0.6, 1.2), page.paper if page.design != 1 else page.accent)
    modules = segno.make(page.sentence(60) + str(rng.integers(10**9))).matrix
    edge = round(min(page.width, page.height) * rng.uniform(0.5, 0.8))
    square = Image.fromarray(255 - 255 * np.array([*map(list, modules)], np.uint8))
    left, top = (page.width - edge) // 2, (page.height - edge) // (2 if page.design != 2 else 3)
    page.box(left - 12, top - 12, edge + 24, edge + 24, WHITE, radius=6)
    page.image.paste(
        square.resize((edge, edge), Image.Resampling.NEAREST).convert("RGB"), (left, top)
    )
    page.text(left, top + edge + 16, page.sentence(18), 12, edge, most=1)


def _slide(page: _Page, rng: np.random.Generator):
    colored = rng.random() < 0.3
    page.open(rng.choice([4 / 3, 16 / 9]), page.accent if colored else page.paper)
    page.ink = WHITE if colored else page.ink
    if page.design == 0:
        page.box(0, 0, page.width, 46, page.accent)
    elif page.design == 1:
        page.box(0, 0, 14, page.height, page.accent)
    else:
        page.box(0, page.height - 18, page.width, 18, page.accent)
    page.text(26, 12, page.sentence(22), 20, page.width - 40, most=1)
    y = 62.0
    for _ in range(rng.integers(2, 6)):
        if y > page.height - 40:
            break
        point = "•–▪"[page.design] + page.sentence(40)
        y = page.text(34, y, point, 13, page.width * rng.uniform(0.5, 0.9), most=2) + 6
    if rng.random() < 0.4:
        page.box(
            page.width * 0.62, 80, page.width * 0.3, page.height * 0.4, _hsv(rng.random(), 0.4, 0.8)
        )


def _whiteboard(page: _Page, rng: np.random.Generator):
    page.open(rng.uniform(1.2, 1.9), _gray(rng, 215, 250))
    frame = _gray(rng, 90, 200)
    page.draw.rectangle(
        (0, 0, page.width - 1, page.height - 1), None, frame, int(rng.integers(4, 10))
    )
    pens = [(30, 40, 150), (170, 30, 30), (20, 110, 50), (30, 30, 30)]
    for _ in range(rng.integers(4, 10)):
        pen = pens[rng.integers(4)]
        x, y = rng.uniform(12, page.width * 0.7), rng.uniform(12, page.height - 40)
        if rng.random() < 0.35:  # a box with an arrow, by hand
            corners = np.array(
                [[0, 0], [70, 0], [70, 36], [0, 36], [0, 0], [70, 18], [110, 18], [102, 12]], float
            )
            points = corners * rng.uniform(0.6, 1.3) + rng.normal(0, 2, corners.shape) + (x, y)
            page.draw.line([tuple(point) for point in points], pen, 2)
            continue
        size = rng.uniform(12, 24)
        for letter in page.sentence(14):
            page.text(
                x, y + rng.normal(0, size * 0.12), letter, size * rng.uniform(0.85, 1.15), color=pen
            )
            x += size * (0.55 if letter.isascii() else 1.02)


def _table(page: _Page, rng: np.random.Generator):
    page.open(rng.uniform(0.8, 1.6), WHITE)
    columns, height = int(rng.integers(3, 8)), rng.uniform(15, 24)
    width = page.width / columns
    for row in range(round(page.height / height) + 1):
        for column in range(columns):
            head = (
                page.accent
                if row == 0
                else (240, 240, 240)
                if page.design == 1 and row % 2
                else None
            )
            left, top = column * width, row * height
            page.draw.rectangle(
                (left, top, (column + 1) * width, (row + 1) * height), head, (170, 170, 170)
            )
            words = page.sentence(6) if row == 0 or column == 0 else page.price()
            page.text(left + 3, top + 2, words, height * 0.5, width - 4, most=1)


# captions of each kind, in English and Chinese
_CAPTIONS = {
    _chat: (
        "a screenshot of a chat; a chat on a phone; a screenshot of text messages; messages on a screen",
        "聊天截图; 聊天记录; 微信聊天记录的截图; 手机上的对话",
    ),
    _settings: (
        "a screenshot of the settings; a screenshot of a phone; the settings of a phone",
        "设置界面的截图; 手机截图; 手机设置",
    ),
    _receipt: (
        "a receipt; a receipt from a shop; a till receipt with prices; a bill",
        "小票; 购物小票; 收据; 超市的收银小票; 账单",
    ),
    _document: (
        "a document; a page of text; a printed letter; a scanned document",
        "文件; 一页文字; 打印的文档; 扫描的文件",
    ),
    _code: ("a QR code; a QR code to scan; a payment code", "二维码; 可以扫的码; 付款二维码"),
    _slide: (
        "a slide; a presentation slide; a slide with bullet points",
        "幻灯片; 演示文稿; 讲座的幻灯片; PPT",
    ),
    _whiteboard: (
        "a whiteboard; notes on a whiteboard; a whiteboard with arrows",
        "白板; 白板上的笔记; 写满字的白板",
    ),
    _table: ("a spreadsheet; a table of numbers", "表格; 电子表格; 一张数据表"),
}
_ON_SCREEN = (_chat, _settings, _table)  # not photographed
# names of the kinds, in the order in which pages take turns
KINDS = {
    language: [texts[n].split("; ")[0] for texts in _CAPTIONS.values()]
    for n, language in enumerate(LANGUAGES)
}


def _photographed(
    image: Image.Image, rng: np.random.Generator, background: Image.Image
) -> Image.Image:
    """A page as a camera sees it: tilted, in uneven light, on a blurred photograph."""
    width, height = (round(side * rng.uniform(1.1, 1.5)) for side in image.size)
    scene = (
        background.convert("RGB")
        .resize((width, height))
        .filter(ImageFilter.GaussianBlur(rng.uniform(2, 8)))
    )
    corners = np.array(
        [[0, 0], [image.width, 0], [image.width, image.height], [0, image.height]], float
    )
    turn = np.deg2rad(rng.normal(0, 6))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    seen = (
        (corners - corners.mean(0)) @ matrix.T
        + (width / 2, height / 2)
        + rng.normal(0, 0.03 * SIZE, (4, 2))
    )
    # the coefficients of PIL's transform map the scene to the page
    rows = []
    for (x, y), (u, v) in zip(seen, corners, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    tilt = tuple(np.linalg.solve(np.array(rows), corners.flatten()))
    move = functools.partial(
        Image.Image.transform,
        size=(width, height),
        method=Image.Transform.PERSPECTIVE,
        data=tilt,
        resample=Image.Resampling.BILINEAR,
    )
    scene.paste(move(image), mask=move(Image.new("L", image.size, 255)))
    left, right, top, bottom = rng.uniform(0.7, 1.1, 4)
    light = (
        np.linspace(top, bottom, height)[:, None, None] * np.linspace(left, right, width)[:, None]
    )
    light = light * rng.uniform(0.9, 1, 3)
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
        num: How many pages.
        sentences: Texts for them, by language.
        backgrounds: Photographs behind paper, boards and slides.
        held_out: Whether to draw the design for validation instead of the others.
        seed: Seed of everything that varies.

    Raises:
        ValueError: The package with the fonts is missing, or a file of it has a wrong hash.
    """
    files = [design.find() for design in _DESIGNS]
    font = functools.cache(lambda design, size: ImageFont.truetype(files[design], size))
    rows, kinds = [], list(_CAPTIONS)
    for number in range(num):
        rng = np.random.default_rng([seed, held_out, number])
        design = len(_DESIGNS) - 1 if held_out else int(rng.integers(len(_DESIGNS) - 1))
        language = list(sentences)[rng.integers(len(sentences))]
        draw = kinds[number % len(kinds)]
        page = _Page(rng, sentences[language], design, functools.partial(font, design))
        draw(page, rng)
        image = page.image
        if draw not in _ON_SCREEN and rng.random() < 0.5:
            image = _photographed(image, rng, backgrounds[int(rng.integers(len(backgrounds)))])
        image.save(file := io.BytesIO(), "JPEG", quality=int(rng.integers(60, 95)))
        captions = {
            name: texts.split("; ") for name, texts in zip(LANGUAGES, _CAPTIONS[draw], strict=True)
        }
        rows.append({"image": {"bytes": file.getvalue(), "path": None}} | captions)
    pq.write_table(pa.Table.from_pylist(rows), path)

"""Label an image, and search images, in Chinese or English.

python model_cards/space/app.py --model runs/demo/model
"""

import argparse
import base64
import html
import os
import re
import time
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from encoder import Encoder, on_white
from images import Hit, Index, open_images
from PIL import Image

EMOJI = "training.corpus.emoji:load_drawings"
HERE = Path(__file__).parent
EXAMPLES = HERE / "examples"
SEPARATORS = re.compile(r"[,，、;；\n]")
CHINESE = re.compile(r"[\u3400-\u9fff]")
MAX_LABELS = 100
HITS = 24
DEFAULT_LABELS = "狐狸, 狗, 猫, 熊, a red apple, a rocket"
LABEL_IDEAS = [
    ["狐狸, 狗, 猫, 熊, 老虎, 兔子"],
    ["fox, dog, cat, bear, tiger, rabbit"],
    ["动物, 食物, 旗帜, 天气, 交通工具"],
]
QUERY_IDEAS = [["红色的心"], ["birthday cake"], ["下雨"], ["a person running"]]
TEMPLATES = [
    ("label alone · 只用标签", "{}"),
    ("an image of {}", "an image of {}"),
    ("一张{}的图片", "一张{}的图片"),
]


def parse_labels(text: str) -> list[str]:
    """The labels of a text, each once; commas and semicolons of either width separate, as do line ends."""
    return list(dict.fromkeys(filter(None, (label.strip() for label in SEPARATORS.split(text)))))


def note(text: str) -> str:
    """A quiet line in place of an answer."""
    return f'<p class="note">{html.escape(text)}</p>'


def draw_bars(shares: list[tuple[str, float]], milliseconds: float) -> str:
    """An answer as bars, the best label marked."""
    rows = "".join(
        f'<li class="{"best" if rank == 0 else ""}"><span class="name">{html.escape(label)}</span>'
        f'<span class="share">{share:.1%}</span>'
        f'<span class="track"><span class="bar" style="width:{100 * share:.2f}%"></span></span></li>'
        for rank, (label, share) in enumerate(shares)
    )
    labels = "1 label" if len(shares) == 1 else f"{len(shares)} labels"
    return f'<ol class="bars">{rows}</ol><p class="note"><b>{milliseconds:.0f} ms</b> · 1 image, {labels}</p>'


def draw_hits(hits: list[Hit], query: str, total: int, milliseconds: float) -> str:
    """Images that were found, titled in the language of the query where they have a name in it."""
    language = "zh" if CHINESE.search(query) else "en"
    tiles = []
    for hit in hits:
        title = html.escape(hit.title.get(language) or next(iter(hit.title.values())))
        source = f"data:image/webp;base64,{base64.b64encode(hit.thumbnail).decode()}"
        tiles.append(f'<li title="cosine {hit.score:.3f}"><img src="{source}" alt="{title}"><span>{title}</span></li>')
    return (
        f'<ol class="hits">{"".join(tiles)}</ol>'
        f'<p class="note"><b>{milliseconds:.0f} ms</b> · the nearest {len(hits)} of {total:,} images</p>'
    )


class Demo:
    """What the two tabs answer.

    Args:
        encoder: the model.
        index: of the images to search; None where there are none.
    """

    def __init__(self, encoder: Encoder, index: Index | None):
        self.encoder, self.index = encoder, index
        encoder.label(Image.new("RGB", (64, 64)), ["warm-up"])  # the first call allocates; nobody should wait for it

    def label(self, image: Image.Image | None, labels: str, template: str) -> str:
        """The first tab's answer, in HTML."""
        names = parse_labels(labels or "")
        if image is None:
            return note("Drop an image on the left. · 请先放一张图片。")
        if not names:
            return note("Type some labels, separated by commas. · 请输入标签，用逗号分隔。")
        if len(names) > MAX_LABELS:
            return note(f"{len(names)} labels are more than the {MAX_LABELS} that are answered at once.")
        template = template or "{}"
        if "{}" not in template:
            return note(f"The sentence {template!r} has no {{}} where the label goes.")
        began = time.perf_counter()
        shares = self.encoder.label(on_white(image), names, template)
        return draw_bars(shares, 1000 * (time.perf_counter() - began))

    def search(self, query: str) -> str:
        """The second tab's answer, in HTML."""
        if self.index is None:
            return note("This Space has no images to search.")
        if not (query := (query or "").strip()):
            return note("Type what you are looking for. · 请输入要找的内容。")
        began = time.perf_counter()
        hits = self.index.search(self.encoder.encode_texts([query])[0], HITS)
        return draw_hits(hits, query, len(self.index.titles), 1000 * (time.perf_counter() - began))


def build(demo: Demo, example: Path | None) -> gr.Blocks:
    """The page."""
    live = {"trigger_mode": "always_last", "show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="DC-CLIP", analytics_enabled=False) as page:
        gr.HTML(
            "<header><h1>DC-CLIP</h1><p>A small model that sees images and reads Chinese and English. "
            f"小模型，看图，读中文和英文。</p><code>{html.escape(demo.encoder.name)}</code></header>",
            padding=False,
        )
        with gr.Tab("Label · 标注"):
            with gr.Row(equal_height=False):
                with gr.Column():
                    image = gr.Image(
                        str(example) if example else None,
                        type="pil",
                        image_mode=None,
                        sources=["upload", "webcam", "clipboard"],
                        show_label=False,
                        buttons=[],
                        height=300,
                        elem_id="image",
                        placeholder="Drop an image here, or click · 放一张图片",
                    )
                    template = gr.Dropdown(
                        TEMPLATES,
                        value="{}",
                        label="Sentence around each label · 句式",
                        allow_custom_value=True,
                        elem_id="template",
                    )
                with gr.Column():
                    labels = gr.Textbox(
                        DEFAULT_LABELS, label="Labels, separated by commas · 标签", lines=2, elem_id="labels"
                    )
                    answer = gr.HTML(elem_id="answer", padding=False)
                    gr.Examples(LABEL_IDEAS, labels, label="Try · 试试")
            inputs = [image, labels, template]
            gr.on([page.load, *(part.change for part in inputs)], demo.label, inputs, answer, **live)
        with gr.Tab("Search · 搜图"):
            query = gr.Textbox(
                QUERY_IDEAS[0][0],
                show_label=False,
                placeholder="What are you looking for? · 想找什么？",
                elem_id="query",
            )
            gr.Examples(QUERY_IDEAS, query, label="Try · 试试")
            found = gr.HTML(elem_id="found", padding=False)
            gr.on([page.load, query.change], demo.search, query, found, **live)
            if demo.index is not None and demo.index.credit:
                gr.HTML(note(demo.index.credit), padding=False)
    return page


THEME = gr.themes.Base(
    primary_hue="blue",
    neutral_hue="slate",
    radius_size="lg",
    font=[
        "system-ui",
        "-apple-system",
        "Segoe UI",
        "Noto Sans CJK SC",
        "sans-serif",
    ],  # names alone: nothing is fetched
    font_mono=["ui-monospace", "SFMono-Regular", "monospace"],
)


def default_images() -> str | None:
    """The images beside this file, as on a Space; the embedded emoji where the project is installed; else none."""
    if EXAMPLES.is_dir():
        return str(EXAMPLES)
    try:
        import training.corpus.emoji  # noqa: F401
    except ImportError:
        return None
    return EMOJI


def main():
    """Parse, load, serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--model",
        default=os.environ.get("DCCLIP_MODEL", "runs/demo/model"),
        help="folder or Hub id (default: the variable DCCLIP_MODEL, else runs/demo/model)",
    )
    parser.add_argument(
        "--revision",
        default=os.environ.get("DCCLIP_REVISION"),
        help="commit of a Hub id, whose code is run (default: the variable DCCLIP_REVISION)",
    )
    parser.add_argument(
        "--images",
        default=os.environ.get("DCCLIP_IMAGES") or default_images(),
        help="what to search: a folder, or module:function (default: the variable DCCLIP_IMAGES, else the folder "
        "`examples` beside this file, else the embedded emoji)",
    )
    parser.add_argument("--port", type=int, default=None, help="default: the first free one from 7860")
    options = parser.parse_args()
    try:
        encoder = Encoder(options.model, options.revision)
        index = Index.open(encoder, open_images(options.images)) if options.images else None
    except ValueError as error:
        parser.exit(2, f"space: {error}\n")
    example = Path(options.model) / "example.png"
    page = build(Demo(encoder, index), example if example.is_file() else None)
    page.launch(
        theme=THEME, css_paths=HERE / "style.css", footer_links=[], server_port=options.port, allowed_paths=[example]
    )


if __name__ == "__main__":
    main()

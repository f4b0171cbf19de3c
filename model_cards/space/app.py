"""Label an image and search images in Chinese or English.

python model_cards/space/app.py --model runs/demo/model
"""

import argparse
import base64
import html
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

try:
    import gradio as gr
    from encoder import Encoder
    from images import Hit, Index, open_images
    from PIL import Image
except ModuleNotFoundError as error:
    print(f'space: {error.name} is not installed. Run: pip install -e ".[space]"', file=sys.stderr)
    sys.exit(2)

EMOJI = "training.corpus.emoji:load_images"
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
    ("label alone · 仅标签", "{}"),
    ("an image of {}", "an image of {}"),
    ("一张{}的图片", "一张{}的图片"),
]


def parse_labels(text: str) -> list[str]:
    """Split a text into unique labels at commas, semicolons (ASCII or Chinese) and line ends."""
    return list(dict.fromkeys(filter(None, (label.strip() for label in SEPARATORS.split(text)))))


def note(text: str) -> str:
    """Render a message in small grey text."""
    return f'<p class="note">{html.escape(text)}</p>'


def render_bars(scores: list[tuple[str, float]], milliseconds: float) -> str:
    """Render labels and scores as bars, with the best label highlighted.

    Args:
        scores: Labels with their scores in 0..1, highest first.
        milliseconds: Latency to show below the bars.
    """
    rows = "".join(
        f'<li class="{"best" if rank == 0 else ""}"><span class="name">{html.escape(label)}</span>'
        f'<span class="score">{score:.1%}</span>'
        f'<span class="track"><span class="bar" style="width:{100 * score:.2f}%"></span></span></li>'
        for rank, (label, score) in enumerate(scores)
    )
    labels = "1 label" if len(scores) == 1 else f"{len(scores)} labels"
    return f'<ol class="bars">{rows}</ol><p class="note"><b>{milliseconds:.0f} ms</b> · 1 image, {labels}</p>'


def render_hits(hits: list[Hit], query: str, total: int, milliseconds: float) -> str:
    """Render search results as tiles, with titles in the language of the query if the images have them.

    Args:
        hits: Search results, most similar first.
        query: Query text, which sets the language of the titles.
        total: Number of images that were searched.
        milliseconds: Latency to show below the tiles.
    """
    language = "zh" if CHINESE.search(query) else "en"
    tiles = []
    for hit in hits:
        title = html.escape(hit.title.get(language) or next(iter(hit.title.values())))
        source = f"data:image/webp;base64,{base64.b64encode(hit.thumbnail).decode()}"
        tiles.append(f'<li title="cosine {hit.score:.3f}"><img src="{source}" alt="{title}"><span>{title}</span></li>')
    return (
        f'<ol class="hits">{"".join(tiles)}</ol>'
        f'<p class="note"><b>{milliseconds:.0f} ms</b> · top {len(hits)} of {total:,} images</p>'
    )


class Demo:
    """Callbacks of the two tabs.

    Args:
        encoder: Model that encodes images and texts.
        index: Index of the images to search; None without images.
    """

    def __init__(self, encoder: Encoder, index: Index | None):
        self.encoder, self.index = encoder, index
        encoder.label(Image.new("RGB", (64, 64)), ["warm-up"])  # the first call is slow

    def label(self, image: Image.Image | None, labels: str, template: str) -> str:
        """Label an image for the first tab.

        Args:
            image: Uploaded image; None before an upload.
            labels: Labels as typed, separated by commas.
            template: Sentence around each label, with `{}` for the label.

        Returns:
            HTML with the scores or a message.
        """
        names = parse_labels(labels or "")
        if image is None:
            return note("Drop an image on the left. · 请先在左侧放入一张图片。")
        if not names:
            return note("Enter labels, separated by commas. · 请输入标签，用逗号分隔。")
        if len(names) > MAX_LABELS:
            return note(f"Got {len(names)} labels; enter at most {MAX_LABELS}. · 标签过多，最多 {MAX_LABELS} 个。")
        template = template or "{}"
        if "{}" not in template:
            return note(f"The sentence {template!r} has no {{}}. Write {{}} where the label goes. · 句式中缺少 {{}}。")
        began = time.perf_counter()
        scores = self.encoder.label(self.encoder.to_rgb(image), names, template)
        return render_bars(scores, 1000 * (time.perf_counter() - began))

    def search(self, query: str) -> str:
        """Search the images for the second tab and return the results, or a message, as HTML."""
        if self.index is None:
            return note("This Space has no images to search. · 此 Space 没有可搜索的图片。")
        if not (query := (query or "").strip()):
            return note("Enter a search text. · 请输入要搜索的内容。")
        began = time.perf_counter()
        hits = self.index.search(self.encoder.encode_texts([query])[0], HITS)
        return render_hits(hits, query, len(self.index.titles), 1000 * (time.perf_counter() - began))


def build(demo: Demo, example: Path | None) -> gr.Blocks:
    """Build the page.

    Args:
        demo: Callbacks of the two tabs.
        example: Image that is shown at the start; None for an empty field.
    """
    live = {"trigger_mode": "always_last", "show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="DC-CLIP", analytics_enabled=False) as page:
        gr.HTML(
            "<header><h1>DC-CLIP</h1><p>A small Chinese–English CLIP model. "
            f"轻量级中英双语图文模型。</p><code>{html.escape(demo.encoder.name)}</code></header>",
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
                        placeholder="Drop an image here, or click · 拖入图片，或点击上传",
                    )
                    template = gr.Dropdown(
                        TEMPLATES,
                        value="{}",
                        label="Prompt template · 提示模板",
                        allow_custom_value=True,
                        elem_id="template",
                    )
                with gr.Column():
                    labels = gr.Textbox(
                        DEFAULT_LABELS,
                        label="Labels, separated by commas · 标签，用逗号分隔",
                        lines=2,
                        elem_id="labels",
                    )
                    answer = gr.HTML(elem_id="answer", padding=False)
                    gr.Examples(LABEL_IDEAS, labels, label="Try · 试试")
            inputs = [image, labels, template]
            # gradio adds the event methods of its components at run time
            changes = [part.change for part in inputs]  # type: ignore[attr-defined]
            gr.on([page.load, *changes], demo.label, inputs, answer, **live)
        with gr.Tab("Search · 搜图"):
            _build_search(demo, page, live)
    return page


def _build_search(demo: Demo, page: gr.Blocks, live: dict[str, Any]):
    """Build the tab that searches the index of the Space."""
    query = gr.Textbox(
        QUERY_IDEAS[0][0],
        show_label=False,
        placeholder="What are you looking for? · 想搜索什么？",
        elem_id="query",
    )
    gr.Examples(QUERY_IDEAS, query, label="Try · 试试")
    found = gr.HTML(elem_id="found", padding=False)
    gr.on([page.load, query.change], demo.search, query, found, **live)
    if demo.index is not None and demo.index.credit:
        gr.HTML(note(demo.index.credit), padding=False)


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
    ],  # font names as strings, so that no font is downloaded
    font_mono=["ui-monospace", "SFMono-Regular", "monospace"],
)


def default_images() -> str | None:
    """Return the default source of images.

    Returns:
        The folder `examples` next to this file if it exists, else the embedded emoji if `training` is installed, else
        None.
    """
    if EXAMPLES.is_dir():
        return str(EXAMPLES)
    try:
        import training.corpus.emoji  # noqa: F401
    except ImportError:
        return None
    return EMOJI


def main():
    """Parse the options, load the model and the images, start the server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--model",
        default=os.environ.get("DCCLIP_MODEL", "runs/demo/model"),
        help="Model folder or Hub id. Default: the variable DCCLIP_MODEL, else runs/demo/model.",
    )
    parser.add_argument(
        "--revision",
        default=os.environ.get("DCCLIP_REVISION"),
        help="Commit of a Hub id. Its code is run, so pin it. Default: the variable DCCLIP_REVISION.",
    )
    parser.add_argument(
        "--images",
        default=os.environ.get("DCCLIP_IMAGES") or default_images(),
        help="Images to search: a folder or module:function. Default: the variable DCCLIP_IMAGES, else the folder "
        "`examples` next to this file, else the embedded emoji.",
    )
    parser.add_argument("--port", type=int, default=None, help="Port. Default: the first free port from 7860.")
    options = parser.parse_args()
    is_hub_id = options.model.count("/") == 1 and not Path(options.model).exists()
    if is_hub_id and options.revision is None:
        parser.exit(
            2, f"space: revision: {options.model!r} runs code from the Hub. Name its commit with --revision.\n"
        )
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

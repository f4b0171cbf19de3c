"""Label an image and search images in Chinese or English.

python model_cards/space/app.py
python model_cards/space/app.py --model MODEL --images FOLDER
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
    from encoder import Album, Encoder, Hit
    from PIL import Image
except ModuleNotFoundError as error:
    print(f'space: {error.name} is not installed. Run: pip install -e ".[space]"', file=sys.stderr)
    sys.exit(2)

CACHE = Path(os.environ.get("DCCLIP_CACHE", "~/.cache/dcclip")).expanduser() / "space"
MAX_UPLOAD = "20mb"  # of an image
HERE = Path(__file__).parent
EXAMPLES = HERE / "examples"
PHOTO_MODEL = HERE.parent / "dcclip-tiny-photo"
SEPARATORS = re.compile(r"[,，、;；\n]")
MAX_LABELS = 100
HITS = 24
DEFAULT_LABELS = "猫, 狗, 兔子, a cup of coffee, a rocket"
LABEL_IDEAS = [
    ["猫, 狗, 马, 鸟, 羊, 兔子"],
    ["cat, dog, horse, bird, sheep, rabbit"],
    ["海滩, 雪山, 森林, 街道, 房间"],
]
QUERY_IDEAS = [["一杯咖啡"], ["an astronaut"], ["寺庙"], ["a flower"], ["一只猫"]]
TEMPLATES = [
    ("label alone · 仅标签", "{}"),
    ("a photo of {}", "a photo of {}"),
    ("一张{}的照片", "一张{}的照片"),
]


def parse_labels(text: str) -> list[str]:
    """Split a text into unique labels at commas, semicolons (ASCII or Chinese) and line ends."""
    return list(dict.fromkeys(filter(None, (label.strip() for label in SEPARATORS.split(text)))))


def note(text: str) -> str:
    """Render a message in small grey text."""
    return f'<p class="note">{html.escape(text)}</p>'


def render_bars(scores: list[tuple[str, float]], milliseconds: float) -> str:
    """Render labels with scores in 0..1, highest first, as bars above the latency."""
    rows = "".join(
        f'<li class="{"best" if rank == 0 else ""}"><span class="name">{html.escape(label)}</span>'
        f'<span class="score">{score:.1%}</span>'
        f'<span class="track"><span class="bar" style="width:{100 * score:.2f}%"></span></span></li>'
        for rank, (label, score) in enumerate(scores)
    )
    labels = "1 label" if len(scores) == 1 else f"{len(scores)} labels"
    return f'<ol class="bars">{rows}</ol><p class="note"><b>{milliseconds:.0f} ms</b> · 1 image, {labels}</p>'


def render_hits(hits: list[Hit], total: int, milliseconds: float, notes: list[str]) -> str:
    """Render search results as tiles: notes about the query, images, and how many of `total` in how much time."""
    tiles = []
    for hit in hits:
        title = html.escape(hit.title)
        source = f"data:image/jpeg;base64,{base64.b64encode(hit.thumbnail).decode()}"
        tiles.append(f'<li title="cosine {hit.score:.3f}"><img src="{source}" alt="{title}"><span>{title}</span></li>')
    return (
        f'{"".join(map(note, notes))}<ol class="hits">{"".join(tiles)}</ol>'
        f'<p class="note"><b>{milliseconds:.0f} ms</b> · top {len(hits)} of {total:,} images</p>'
    )


class Demo:
    """Callbacks of the two tabs: a model that labels images, and images to search, if there are any."""

    def __init__(self, encoder: Encoder, album: Album | None):
        self.encoder, self.album = encoder, album
        encoder.runtime.zero_shot(Image.new("RGB", (64, 64)), ["warm-up"])  # the first call is slow

    def label(self, image: str | None, labels: str, template: str) -> str:
        """Label an uploaded file for the first tab, and return the scores, or a message, as HTML."""
        names = parse_labels(labels or "")
        if image is None:
            return note("Drop an image above. · 请先放入一张图片。")
        if not names:
            return note("Enter labels, separated by commas. · 请输入标签，用逗号分隔。")
        if len(names) > MAX_LABELS:
            return note(f"Got {len(names)} labels; enter at most {MAX_LABELS}. · 标签过多，最多 {MAX_LABELS} 个。")
        template = template or "{}"
        if "{}" not in template:
            return note(f"The sentence {template!r} has no {{}}. Write {{}} where the label goes. · 句式中缺少 {{}}。")
        began = time.perf_counter()
        try:
            scores = self.encoder.label(image, names, template)
        except ValueError:
            return note(
                "This file cannot be opened as an image. Use a JPEG, PNG or WebP file that opens elsewhere. · "
                "无法打开该文件，请换一张 JPEG、PNG 或 WebP 图片。"
            )
        return render_bars(scores, 1000 * (time.perf_counter() - began))

    def search(self, query: str) -> str:
        """Search the images for the second tab and return the results, or a message, as HTML."""
        if self.album is None:
            return note("This Space has no images to search. · 此 Space 没有可搜索的图片。")
        if not (query := (query or "").strip()):
            return note("Enter a search text. · 请输入要搜索的内容。")
        began = time.perf_counter()
        try:
            hits, notes = self.album.search(query, HITS)
        except ValueError as error:
            return note(str(error))
        return render_hits(hits, len(self.album.titles), 1000 * (time.perf_counter() - began), notes)


def build(demo: Demo, example: Path | None) -> gr.Blocks:
    """Build the page, with an example image or an empty field."""
    live = {"trigger_mode": "always_last", "show_progress": "minimal", "api_visibility": "private"}
    with gr.Blocks(title="DC-CLIP", analytics_enabled=False) as page:
        gr.HTML(
            "<header><h1>DC-CLIP</h1><p>A small Chinese–English CLIP model. "
            f"轻量级中英双语图文模型。</p><code>{html.escape(demo.encoder.title)}</code></header>",
            padding=False,
        )
        with gr.Tab("Label · 标注"):
            _build_label(demo, page, live, example)
        with gr.Tab("Search · 搜图"):
            _build_search(demo, page, live)
    return page


def _build_label(demo: Demo, page: gr.Blocks, live: dict[str, Any], example: Path | None):
    """Build the tab that labels an image: on a phone, the answer stands between the labels and everything else."""
    with gr.Row(equal_height=False):
        with gr.Column():
            image = gr.Image(
                str(example) if example else None,
                type="filepath",
                image_mode=None,
                sources=["upload", "webcam", "clipboard"],
                show_label=False,
                buttons=[],
                elem_id="image",
                placeholder="Drop an image here, or click · 拖入图片，或点击上传",
            )
            # Gradio would open the file itself, and fail on a damaged one without a message
            image.preprocess = lambda payload: payload.path if payload else None  # type: ignore[method-assign]
        with gr.Column():
            labels = gr.Textbox(
                DEFAULT_LABELS, label="Labels, separated by commas · 标签，用逗号分隔", lines=1, elem_id="labels"
            )
            answer = gr.HTML(elem_id="answer", padding=False)
            gr.Examples(LABEL_IDEAS, labels, label="Try · 试试")
            template = gr.Dropdown(
                TEMPLATES, value="{}", label="Prompt template · 提示模板", allow_custom_value=True, elem_id="template"
            )
    inputs = [image, labels, template]
    # gradio adds the event methods of its components at run time
    changes = [part.change for part in inputs]  # type: ignore[attr-defined]
    gr.on([page.load, *changes], demo.label, inputs, answer, **live)  # type: ignore[attr-defined]


def _build_search(demo: Demo, page: gr.Blocks, live: dict[str, Any]):
    """Build the tab that searches the images of the Space."""
    query = gr.Textbox(
        QUERY_IDEAS[0][0],
        show_label=False,
        placeholder="What are you looking for? · 想搜索什么？",
        elem_id="query",
    )
    gr.Examples(QUERY_IDEAS, query, label="Try · 试试")
    found = gr.HTML(elem_id="found", padding=False)
    gr.on([page.load, query.change], demo.search, query, found, **live)
    if demo.album is not None and demo.album.credit:
        gr.HTML(note(demo.album.credit), padding=False)


THEME = gr.themes.Base(
    primary_hue="blue",
    neutral_hue="slate",
    radius_size="lg",
    # font names as strings, so that no font is downloaded
    font=["system-ui", "-apple-system", "Segoe UI", "Noto Sans CJK SC", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "monospace"],
)


def default_images() -> str | None:
    """The folder `examples` next to this file, else the free photographs of pip packages if they are installed."""
    if EXAMPLES.is_dir():
        return str(EXAMPLES)
    try:
        from training.corpus.free_photos import write_free_photos

        return str(write_free_photos(CACHE / "photographs"))
    except (ImportError, ValueError):  # without this project, or without one of the packages
        return None


def default_model() -> str | None:
    """Return the model named by `DCCLIP_MODEL`, else the shipped model in a checkout, else None."""
    return os.environ.get("DCCLIP_MODEL") or (str(PHOTO_MODEL) if PHOTO_MODEL.is_dir() else None)


def parse_options() -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(prog="space", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--model",
        default=default_model(),
        help="Exported model folder or Hub id. Default: the variable DCCLIP_MODEL, else the model of photographs in "
        "model_cards/dcclip-tiny-photo.",
    )
    parser.add_argument(
        "--revision",
        default=os.environ.get("DCCLIP_REVISION"),
        help="Commit of a Hub id. Its code is run, so pin it. Default: the variable DCCLIP_REVISION.",
    )
    parser.add_argument(
        "--images",
        default=os.environ.get("DCCLIP_IMAGES") or None,
        help="Folder of images to search. Default: the variable DCCLIP_IMAGES, else the folder `examples` next to "
        "this file, else the free photographs of pip packages.",
    )
    parser.add_argument("--port", type=int, default=None, help="Port. Default: the first free port from 7860.")
    options = parser.parse_args()
    if options.model is None:
        parser.exit(2, "space: model: none is given. Name one with --model or the variable DCCLIP_MODEL.\n")
    if options.model.count("/") == 1 and not Path(options.model).exists() and options.revision is None:
        parser.exit(2, f"space: revision: {options.model!r} runs code from the Hub. Name a commit with --revision.\n")
    return options


def main():
    """Parse the options, load the model and the images, start the server."""
    options = parse_options()
    try:
        encoder = Encoder(options.model, options.revision)
        images = options.images or default_images()
        album = Album(encoder, images) if images else None
    except ValueError as error:
        print(f"space: {error}", file=sys.stderr)
        sys.exit(2)
    for path, cause in album.failures if album else ():
        print(f"space: left out {path}: {cause}", file=sys.stderr)
    page = build(Demo(encoder, album), encoder.example)
    allowed = [encoder.example] if encoder.example else []
    page.launch(
        theme=THEME,
        css_paths=HERE / "style.css",
        footer_links=[],
        server_port=options.port,
        allowed_paths=allowed,
        max_file_size=MAX_UPLOAD,
    )


if __name__ == "__main__":
    main()

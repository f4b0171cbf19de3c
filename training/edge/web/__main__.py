"""Build a web page that labels and searches images in the browser with an exported model, and serve it.

python -m training.edge.web --model runs/demo/edge                         http://localhost:8000/
python -m training.edge.web --model runs/demo/edge --images MY_IMAGES --output_dir site --no_serve
"""

from dataclasses import dataclass
from pathlib import Path

from training.utils.cli import parse_options, user_errors
from training.utils.files import REPO_ROOT
from training.utils.quiet import hide_library_bars


@dataclass(frozen=True, kw_only=True)
class WebOptions:
    """What the page shows.

    Args:
        model: Model folder with `onnx/`, as `training/export.py` writes it.
        images: Images to search: a folder of images, a parquet file, a Hub id, or `module:function`.
        output_dir: Folder for the finished page, which any web server can serve.
        node_modules: Folder in which npm installed the libraries.
        port: Port on localhost; 0 chooses a free port.
        no_serve: Write the folder without serving it.
    """

    model: str
    images: str = "training.corpus.emoji:load_images"
    output_dir: str = "runs/web"
    node_modules: str = str(REPO_ROOT / "model_cards" / "web" / "node_modules")
    port: int = 8000
    no_serve: bool = False


def main(argv: list[str] | None = None):
    """Parse the options, write the page, serve it."""
    options = parse_options(WebOptions, argv, prog="python -m training.edge.web", description=__doc__)
    folder = Path(options.output_dir)
    with user_errors("web", extra="demo"):
        # after parsing, so that --help answers without PyTorch
        from training.edge.web.assemble import Site
        from training.edge.web.serve import serve

        hide_library_bars()
        Site(Path(options.model), options.images, Path(options.node_modules)).assemble(folder)
        print(f"{folder}: the page is complete")
        if not options.no_serve:
            serve(folder, options.port, lambda address: print(f"{address}   (Ctrl-C stops the server)", flush=True))


if __name__ == "__main__":
    main()

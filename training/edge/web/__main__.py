"""Build a web page that labels and searches images in the browser with an exported model.

python -m training.edge.web                                                the model of photographs, free photographs
python -m training.edge.web --model runs/demo/edge --images MY_IMAGES --output_dir site
python -m training.edge.web --serve                                        http://localhost:8000/
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from training.utils.cli import parse_options, user_errors
from training.utils.files import REPO_ROOT
from training.utils.quiet import hide_library_bars

MAX_LISTED = 10  # images that could not be used


@dataclass(frozen=True, kw_only=True)
class WebOptions:
    """What the page shows.

    Args:
        model: Model folder with `onnx/`, as `training/export.py` writes it.
        images: Images to search: a folder of images, a parquet file, a Hub id, or `module:function`. By default, free
            photographs from pip packages.
        allow_urls: Whether images that a data set names by URL are fetched. Otherwise it is refused.
        allow_paths: Whether image files outside the folder of a data set, which it names by path, are opened.
            Otherwise it is refused.
        output_dir: Folder for the finished page, which any web server can serve.
        node_modules: Folder in which npm installed the libraries.
        port: Port on localhost; 0 chooses a free port.
        serve: Serve the folder on localhost after writing it.
    """

    model: str = "model_cards/dcclip-tiny-photo"
    images: str = "training.corpus.free_photos:load_images"
    allow_urls: bool = False
    allow_paths: bool = False
    output_dir: str = "runs/web"
    node_modules: str = str(REPO_ROOT / "model_cards" / "web" / "node_modules")
    port: int = 8000
    serve: bool = False


def main(argv: list[str] | None = None):
    """Parse the options, write the page, serve it if asked."""
    options = parse_options(WebOptions, argv, prog="python -m training.edge.web", description=__doc__ or "")
    folder = Path(options.output_dir)
    with user_errors("web", extra="photos"):
        # after parsing, so that --help answers without PyTorch
        from training.edge.web.assemble import Site
        from training.edge.web.serve import serve

        hide_library_bars()
        allowed = (options.allow_urls, options.allow_paths)
        site = Site(Path(options.model), options.images, Path(options.node_modules), *allowed)
        failures = site.assemble(folder)
        for name, cause in failures[:MAX_LISTED]:
            print(f"left out {name}: {cause}")
        if len(failures) > MAX_LISTED:
            print(f"left out {len(failures) - MAX_LISTED} more images that do not decode")
        print(f"{folder}: the page is complete; any web server can serve this folder")
        if options.serve:
            serve(folder, options.port, lambda address: print(f"{address}   (Ctrl-C stops the server)", flush=True))
        else:
            print(f"\nNext:\n  python -m http.server --bind 127.0.0.1 --directory {shlex.quote(str(folder))}")


if __name__ == "__main__":
    main()

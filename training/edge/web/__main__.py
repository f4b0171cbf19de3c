"""Put an exported model into a page that labels and searches images in the browser, and serve it.

python -m training.edge.web --model runs/demo/edge                         http://localhost:8000/
python -m training.edge.web --model runs/demo/edge --images MY_IMAGES --output_dir site --no_serve
"""

from dataclasses import dataclass
from pathlib import Path

import datasets
from jsonargparse import ArgumentError, ArgumentParser

from training.edge.web.assemble import NODE_MODULES, Site
from training.edge.web.serve import serve


@dataclass(frozen=True, kw_only=True)
class WebOptions:
    """What to put together.

    Args:
        model: folder with `onnx/`, as `training/export.py` leaves it.
        images: what can be searched: a folder of images, a parquet file, a Hub id, or `module:function`.
        output_dir: the finished page, which can be put on any web server.
        node_modules: where npm put the libraries.
        port: on localhost; 0 takes a free one.
    """

    model: str
    images: str = "training.corpus.emoji:load_drawings"
    output_dir: str = "runs/web"
    node_modules: str = str(NODE_MODULES)
    port: int = 8000


def main(argv: list[str] | None = None):
    """Parse, assemble, serve."""
    parser = ArgumentParser(
        prog="python -m training.edge.web",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_class_arguments(WebOptions)
    parser.add_argument("--no_serve", action="store_true", help="only write the folder")
    datasets.disable_progress_bars()
    try:
        values = vars(parser.instantiate(parser.parse_args(argv)))
        only_write = values.pop("no_serve")
        options = WebOptions(**values)
        folder = Path(options.output_dir)
        Site(Path(options.model), options.images, Path(options.node_modules)).assemble(folder)
        print(f"{folder}: a finished page")
        if not only_write:
            serve(folder, options.port, lambda address: print(f"{address}   (Ctrl-C ends)", flush=True))
    except (ArgumentError, ValueError) as error:
        parser.exit(2, f"web: {error}\n")


if __name__ == "__main__":
    main()

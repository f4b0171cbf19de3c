"""Options of the study of tools."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ToolsOptions:
    """What to compare.

    Args:
        data: Images with captions in both languages, as `data.train` in a recipe. All images are ranked.
        model: Folder of an exported model with the files of the tools.
        tools: Names of the tools. Default: all.
        num_queries: Number of captions in each language: the first one of as many images, evenly spaced.
        width: Width in pixels to which the images are resized, and to three quarters of it in height, before they are
            written as JPEG files, so that every tool must resize and crop. 0 keeps the files as they are stored.
        output_dir: Folder for results.json and for the image files, which are deleted at the end.
    """

    data: str
    model: str = "runs/tools/model"
    tools: list[str] | None = None
    num_queries: int = 500
    width: int = 500
    output_dir: str = "runs/tools"

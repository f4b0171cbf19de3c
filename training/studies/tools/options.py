"""Options of the study of tools."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ToolsOptions:
    """What to compare.

    Args:
        data: Images with captions in both languages, as `data.train` in a recipe.
        model: Folder of an exported model with the files of the tools.
        tools: Names of the tools. Default: all.
        num_images: Number of images that are ranked, evenly spaced. Default: all.
        num_queries: Number of captions of these images in each language, evenly spaced.
        width: Width in pixels to which the images are resized, and to three quarters of it in height, before they are
            written as JPEG files, so that every tool must resize and crop. 0 keeps the files as they are stored.
        output_dir: Folder for results.json and for the image files, which are deleted at the end. Tools that an
            earlier run has measured there with the same options keep their results.
    """

    data: str
    model: str = "runs/tools/model"
    tools: list[str] | None = None
    num_images: int | None = None
    num_queries: int = 500
    width: int = 500
    output_dir: str = "runs/tools"

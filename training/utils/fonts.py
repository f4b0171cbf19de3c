"""Fonts of figures whose labels have Chinese characters."""

import logging
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

log = logging.getLogger(__name__)

DEFAULT = "DejaVu Sans"  # that of matplotlib, which has no Chinese characters
PACKAGE, FILE = "cvttf_NotoSansCJK_Regular", "NotoSansCJKtc-Regular.otf"
INSTALLED = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Heiti TC", "Microsoft YaHei",
    "SimHei", "SimSun",
)  # fmt: skip


def font_families() -> list[str]:
    """Families for labels: matplotlib's own font, and one with Chinese characters if a pip package or the system has
    one.
    """
    from matplotlib import font_manager

    for folder in getattr(find_spec(PACKAGE), "submodule_search_locations", None) or []:
        path = Path(folder, FILE)
        font_manager.fontManager.addfont(path)
        return [DEFAULT, font_manager.FontProperties(fname=path).get_name()]
    names = font_manager.get_font_names()
    return [DEFAULT, *[name for name in INSTALLED if name in names][:1]]


@contextmanager
def label_fonts(labels: Iterable[str]) -> Iterator[None]:
    """Within the `with` block, figures are drawn and saved in fonts that have the characters of their labels.

    Args:
        labels: All labels of the figures.
    """
    import matplotlib as mpl

    if not any(unicodedata.east_asian_width(letter) in "WF" for label in labels for letter in label):
        yield
        return
    families = font_families()
    if families == [DEFAULT]:
        log.warning(
            "figures: no font here has Chinese characters, so labels show boxes. Install one: "
            "pip install cvttf-notosanscjk-regular"
        )
    with mpl.rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # said above, once for all characters
        yield

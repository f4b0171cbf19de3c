"""The licence note of a folder: whose terms its code and its weights are under."""

from pathlib import Path

from training.utils.files import write_text

NOTICE_FILE = "NOTICE.md"
# where the full text of a licence stands that restricts use, and so must reach every recipient
TERMS = {
    "creativeml-openrail-m": "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
    "bigscience-openrail-m": "https://huggingface.co/spaces/bigscience/license",
    "openrail++": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
}


def write_notice(folder: str | Path, teacher: str | None, teacher_license: str | None):
    """Write `NOTICE.md`.

    Args:
        folder: of the model.
        teacher: Hub id or folder of the model it was distilled from.
        teacher_license: identifier of the licence of the teacher's weights.
    """
    write_text(Path(folder) / NOTICE_FILE, render_notice(teacher, teacher_license))


def render_notice(teacher: str | None, teacher_license: str | None) -> str:
    """The note, in Markdown."""
    return (
        "# Licences\n\nThe code in this folder (`*.py`) is under the Apache License 2.0; its text stands in "
        f"`LICENSE`.\n\n{weights_terms(teacher, teacher_license)}\n"
    )


def weights_terms(teacher: str | None, teacher_license: str | None) -> str:
    """A paragraph on the weights: where they come from and whose terms they are under."""
    if teacher is None:
        return "The weights were trained without a teacher and are under the Apache License 2.0 too."
    source = f"The weights were distilled from `{Path(teacher).name if Path(teacher).is_absolute() else teacher}`"
    if teacher_license is None:
        return f"{source}, which names no licence; they are under the Apache License 2.0 as far as that allows."
    text = f"{source}, whose weights are under `{teacher_license}`. Its terms pass on to these weights"
    if teacher_license == "apache-2.0":
        return f"{source}, which is under the Apache License 2.0; so are they."
    if "openrail" not in teacher_license:
        return f"{text}."
    place = f" ({TERMS[teacher_license]})" if teacher_license in TERMS else ""
    return (
        f"{text}{place}: the restrictions on use in its attachment bind you and everyone to whom you give these "
        "weights, or weights made from them. Hand on this note and that licence with every copy, name what you "
        "changed, and let whoever uses the model through a service agree to the same restrictions. These weights were "
        "changed against the teacher's: another, smaller architecture, trained to imitate it."
    )

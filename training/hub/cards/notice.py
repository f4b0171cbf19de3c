"""The licence note of a folder: the licences of its code and its weights."""

from pathlib import Path

from training.hub.cards.facts import split_teachers
from training.teachers.lineage import split_licenses
from training.utils.files import write_text

NOTICE_FILE = "NOTICE.md"
NOTICE = """# Licences

The code in this folder (`*.py`) is licensed under the Apache License 2.0; see `LICENSE`.

{terms}
"""
# full texts of the licences that restrict use and must be passed on to every recipient
TERMS = {
    "creativeml-openrail-m": "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
    "bigscience-openrail-m": "https://huggingface.co/spaces/bigscience/license",
    "openrail++": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
}


def write_notice(
    folder: str | Path,
    teacher: str | None,
    teacher_license: str | None,
    base_model: str | None = None,
    base_model_license: str | None = None,
):
    """Write `NOTICE.md`.

    Args:
        folder: Folder of the model.
        teacher: Hub id or folder of the teacher; None if there was none.
        teacher_license: Licence identifier of the teacher's weights, or of the model's own weights if there was no
            teacher; None if unknown.
        base_model: Hub id or folder of the model that it was fine-tuned from; None if it was not fine-tuned.
        base_model_license: Licence identifier of that model's weights; None if unknown.
    """
    terms = weights_terms(teacher, teacher_license, base_model, base_model_license)
    write_text(Path(folder) / NOTICE_FILE, NOTICE.format(terms=terms))


def weights_terms(
    teacher: str | None,
    teacher_license: str | None,
    base_model: str | None = None,
    base_model_license: str | None = None,
) -> str:
    """A paragraph about the weights: their origin and their licence.

    Args:
        teacher: Hub id or folder of the teacher; None if there was none.
        teacher_license: Licence identifier of the teacher's weights, or of the model's own weights if there was no
            teacher; None if unknown.
        base_model: Hub id or folder of the model that it was fine-tuned from; None if it was not fine-tuned.
        base_model_license: Licence identifier of that model's weights; None if unknown.

    Returns:
        The paragraph in Markdown.
    """
    if base_model is not None:
        return _finetuned_terms(base_model, base_model_license, teacher_license)
    if teacher is None and teacher_license not in (None, "apache-2.0"):
        return (
            f"The weights were trained without a teacher and are licensed under `{teacher_license}`, because of the "
            "licences of the data and models that they were trained with."
        )
    if teacher is None:
        return "The weights were trained without a teacher and are also licensed under the Apache License 2.0."
    names = [Path(name).name if Path(name).is_absolute() else name for name in split_teachers(teacher)]
    source = f"The weights are distilled from {' and '.join(f'`{name}`' for name in names)}"
    if teacher_license is not None and len(licenses := split_licenses(teacher_license)) > 1:
        return _joint_terms(source, licenses)
    if teacher_license is None:
        return (
            f"{source}, which names no licence. They are licensed under the Apache License 2.0 as far as the rights "
            "in the teacher allow."
        )
    if teacher_license == "apache-2.0":
        return f"{source}, which is licensed under the Apache License 2.0. The same licence applies to these weights."
    text = f"{source}, whose weights are licensed under `{teacher_license}`. Its terms also apply to these weights"
    if "openrail" not in teacher_license:
        return f"{text}."
    return (
        f"{text}{_restrictions(teacher_license)} Changes from the teacher: the model has another, smaller "
        "architecture and was trained to match the teacher's outputs."
    )


def _joint_terms(source: str, licenses: list[str]) -> str:
    """Terms of a model of several teachers, or of a teacher and a classifier, whose licences differ."""
    named = " and ".join("an unknown licence" if name == "unknown" else f"`{name}`" for name in licenses)
    text = (
        f"{source}. The models that they learned from are licensed under {named}. The terms of all of them also apply "
        "to these weights"
    )
    restricted = next((name for name in licenses if "openrail" in name), None)
    return f"{text}." if restricted is None else f"{text}{_restrictions(restricted)}"


def _finetuned_terms(base_model: str, base_model_license: str | None, teacher_license: str | None) -> str:
    source = (
        f"The weights are fine-tuned from `{Path(base_model).name if Path(base_model).is_absolute() else base_model}`"
    )
    licenses = [name for name in dict.fromkeys((base_model_license, teacher_license)) if name]
    if not licenses:
        return (
            f"{source}, which names no licence. They are licensed under the Apache License 2.0 as far as the rights "
            "in that model allow."
        )
    text = f"{source}, whose weights are licensed under {' and '.join(f'`{name}`' for name in licenses)}. "
    text += "The same terms also apply to these weights"
    restricted = next((name for name in licenses if "openrail" in name), None)
    if restricted is None:
        return f"{text}."
    return f"{text}{_restrictions(restricted)} Changes from that model: it was trained on further images and captions."


def _restrictions(license: str) -> str:
    """What a licence of the OpenRAIL family requires of those who pass the weights on."""
    full_text = f" ([full text]({TERMS[license]}))" if license in TERMS else ""
    return (
        f"{full_text}. The use restrictions in the attachment of that licence bind you and everyone who receives "
        "these weights, or weights derived from them, from you. Include this note and that licence with every "
        "copy, state your changes, and require users of a hosted service to accept the same restrictions."
    )

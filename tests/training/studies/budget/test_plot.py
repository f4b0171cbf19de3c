import pytest
from matplotlib.figure import Figure

from training.studies.budget.labels import Point, label
from training.studies.budget.options import Quality
from training.studies.budget.plot import plot
from training.utils.results import Results, Row

# milliseconds per pair and millions of parameters of the sizes and baselines
COORDINATES = {
    "tiny": (10, 13), "small": (30, 31), "base": (60, 45), "altclip": (2200, 864), "clip-vit-b-32": (130, 151),
    "chinese-clip-vit-b-16": (250, 188), "chinese-clip-rn50": (120, 77), "mobileclip-s0": (70, 54),
    "mobileclip2-s0": (90, 75), "tinyclip-39m-16": (110, 83), "tinyclip-40m-32": (60, 84), "metaclip2-s-16": (90, 390),
}  # fmt: skip


def test_names_cover_neither_each_other_nor_a_point():
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axis = figure.subplots()
    axis.loglog(*zip(*COORDINATES.values(), strict=True), "o")
    axis.margins(0.12)
    label(axis, [Point(name, *xy, "black") for name, xy in COORDINATES.items()], list(COORDINATES.values()))
    boxes = [text.get_window_extent() for text in axis.texts]
    assert {text.get_text() for text in axis.texts} == set(COORDINATES)
    assert not any(box.overlaps(other) for box in boxes for other in boxes if box is not other)
    assert not any(box.contains(*axis.transData.transform(xy)) for box in boxes for xy in COORDINATES.values())


@pytest.mark.parametrize("quality", [None, Quality("top-1", {"tiny": 0.4, "altclip": 0.7})])
def test_plot_is_written_for_parameters_and_for_quality(quality, tmp_path):
    rows = []
    for name, (ms, parameters) in COORDINATES.items():
        rows.append(Row(model=name, metric="parameters", value=parameters * 1e6))
        for backend, factor in (("eager", 1.5), ("onnx-fp32", 1.0), ("onnx-int8", 0.8)):
            protocol = f"{backend}, threads 2, batch 1"
            rows.append(Row(model=name, protocol=protocol, metric="ms_per_image_p50", value=ms * factor * 0.7))
            rows += [
                Row(model=name, protocol=protocol, language=language, metric="ms_per_text_p50", value=ms * 0.3)
                for language in ("en", "zh")
            ]
    plot(Results({}, rows), quality, tmp_path / "budget.png")
    assert (tmp_path / "budget.png").read_bytes().startswith(b"\x89PNG")


def test_labels_are_reproducible():
    positions = []
    for _ in range(2):
        axis = Figure(figsize=(9, 5.6), layout="constrained").subplots()
        axis.loglog(*zip(*COORDINATES.values(), strict=True), "o")
        label(axis, [Point(name, *xy, "black") for name, xy in COORDINATES.items()], list(COORDINATES.values()))
        positions.append([text.get_position() for text in axis.texts])
    assert positions[0] == positions[1]

"""Export a finished model to files that run without PyTorch, each checked for accuracy in both languages.

options.py          options of an export
formats.py          the table of export formats: a new format is one entry
towers.py           the towers as modules that an exporter can trace
graphs.py           ONNX: write towers as graphs
variants.py         ONNX: fp16, int8 and 4-bit variants of a graph
sessions.py         ONNX: run a graph in ONNX Runtime
programs.py         ExecuTorch: write and run towers as programs
program_int8.py     ExecuTorch: quantise a tower to int8
exported_towers.py  exported files behind the interface of a model
model_data.py       data of the model's own kind that its folder tells of
gate_data.py        images, class names and calibration images of the accuracy gate
gate.py             the accuracy gate: encode the data with each file, and time it
ranking.py          rankings of images by class names
verdict.py          limits of accuracy, latency and size, and the verdict on a file
export.py           one export: trace, quantise, check
output.py           the output folder: files, results and card
layouts.py          the layouts of other tools: write and compare
web/                a static web page that runs an exported model in the browser
"""

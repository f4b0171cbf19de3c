"""Export a finished model to files that run without PyTorch, each checked for accuracy in both languages.

export.py            one export: trace, quantize, check
formats.py           options, and the table of export formats: a new format is one entry
gate.py              the accuracy gate: encode the data with each file, and time it
gate_data.py         images, class names and calibration images of the gate
graphs.py            ONNX: write, quantize and run graphs
open_clip_layout.py  the folder that open_clip loads
output.py            the output folder: files, results and card
programs.py          ExecuTorch: write and run programs
towers.py            the towers as modules that an exporter can trace
verdict.py           limits of accuracy, latency and size, and the verdict on a file
"""

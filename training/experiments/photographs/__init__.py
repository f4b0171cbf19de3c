"""How the published models of photographs were made: `python -m training.experiments.photographs --photos DATA`.

__main__.py      command: options, and the plan
run.py           data, one training run for each recipe of training/configs/photographs, finished models
data.py          files that are prepared: class names with their classifier, names of things, pages
words.py         photographs whose captions are names
pages.py         drawn pages, such as chats and receipts
towers.py        pretrained towers of the teacher, from pip packages
e5.py            weights and tokenizer of multilingual-e5-small
calibrate.py     probability that a photograph fits a query
"""

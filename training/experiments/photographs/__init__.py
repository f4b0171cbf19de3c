"""How the published models of photographs were made: `python -m training.experiments.photographs --photos DATA`.

__main__.py      command: checks what is installed, and prints the results
options.py       options of the command
run.py           data, one training run for each recipe of training/configs/photographs, finished models
data.py          files that are prepared: class names with their classifier, names of things, pages
words.py         photographs whose captions are names
targets.py       targets of names that no photograph shows
pages.py         drawn pages, such as chats and receipts
towers.py        pretrained towers of the teacher, from pip packages
e5.py            weights and tokenizer of multilingual-e5-small
calibrate.py     probability that a photograph fits a query
answers.py       what a search answers to nouns that are there, names that are not, and dates
everyday.py      everyday queries, and which photographs show what they name
search.py        bank, calibration and everyday queries of a finished model
"""

"""The finished model of photographs: the aligned student in half precision, with its figures, examples and card.

__main__.py     command: collect the student, its recipes and results, and write the Hub folder
options.py      options of the command
report.py       table of its figures for the README
results.py      results of evaluations, with their models named by role
rounds.py       the rounds of training: the mean of their weights, their recipes and logs
sheet.py        figure of these photographs, found by queries in both languages
weights.py      a smaller vocabulary, the rotation to principal axes, and half precision
card.yaml       the part of the card that is written by hand
"""

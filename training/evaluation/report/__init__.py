"""Files of a result.

details.py    class tables, confusion matrices, comparison of the languages
published.py  results published by other authors
table.py      tables of results and tasks
writer.py     writes all files
"""

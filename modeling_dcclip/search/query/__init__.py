"""A query: its text, what it excludes, its dates, the words of names, and which photographs fit."""

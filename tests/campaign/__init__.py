"""Damage of every kind, put into every file that a command reads: it is refused, noticed or without effect."""

"""Photographs become an index: a catalog of files with their vectors, and what keeps it up to date."""

from modeling_dcclip.search.index.index import Index

__all__ = ["Index"]

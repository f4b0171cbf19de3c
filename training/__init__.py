"""Distil and align small bilingual CLIP models. Run from a checkout or an editable install."""

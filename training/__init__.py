"""Distil and align small bilingual CLIP models. Run from a checkout or an editable install."""

from training.utils.quiet import hide_torchao_messages

hide_torchao_messages()

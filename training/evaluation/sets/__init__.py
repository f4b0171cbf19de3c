"""Test sets, class names, templates and protocols."""

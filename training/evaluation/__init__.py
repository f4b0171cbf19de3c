"""Zero-shot classification in several languages."""

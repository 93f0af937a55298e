"""Building a SAGE dataset: concepts, prompts, pictures, rows and splits."""

"""The SAGE dataset: rows of chosen and rejected pictures, and what is cached of them for training."""

"""Latents and text states of a dataset, computed once and kept on disk."""

"""Base models and picture generation."""

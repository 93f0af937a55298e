"""Folders of pictures become scores: what each metric is, and the models that some of them compute with."""

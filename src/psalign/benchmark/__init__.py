"""The benchmark: prompt sets x methods x base models, drawn into cells and measured.

Place on the path of data: around steps 6 and 7.
"""

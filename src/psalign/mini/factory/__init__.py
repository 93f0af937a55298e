"""How the shipped mini models were made and checked. Nothing here runs when one of them is used.

Beside the path of data: `psalign mini train-base`, `train-detector`, `train-clip` and `check`.
"""

"""The rules of symlearn's layers, handed to kfac, and curvature over a training set.

`rules` is what kfac imports (see `symlearn.__kfac_rules__`); `coverage` says which parameters have one.
"""

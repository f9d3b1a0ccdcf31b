"""Fits by configuration: in a folder each, read again, used for prediction, run as published tables."""

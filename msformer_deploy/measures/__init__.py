"""Measures of arrays: overlap, surface distances, intervals, and their tables."""

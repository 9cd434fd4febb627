"""Arrays to numbers: overlap, surface distances, intervals, and their tables."""

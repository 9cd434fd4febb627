"""Training of the prior on synthetic scenes: no real image takes part."""

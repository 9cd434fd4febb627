"""Training on few labelled and many unlabelled slices."""

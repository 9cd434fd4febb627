"""The training loop, its state on disk, and what it runs on."""

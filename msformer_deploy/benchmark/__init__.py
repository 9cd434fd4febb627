"""Measuring what runs: `msformer-deploy benchmark`."""

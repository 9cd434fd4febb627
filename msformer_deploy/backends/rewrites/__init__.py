"""Graphs rewritten for a runtime, before it opens them; what they compute stays the same."""

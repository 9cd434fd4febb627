"""The bundle: a folder of graphs, weights and engines, and the proof of what they compute."""

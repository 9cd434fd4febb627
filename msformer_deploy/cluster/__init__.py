"""One run on several machines: parts that know nothing of one another, or workers of a Ray cluster."""

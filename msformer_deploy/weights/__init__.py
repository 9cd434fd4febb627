"""Networks from a seed or a file. Nothing is executed here."""

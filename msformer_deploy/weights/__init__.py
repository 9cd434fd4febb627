"""Networks from a seed or a file. No code from a file is executed."""

"""One thin module per command: options in, one call into the package, a message out."""

"""The page that segments in a browser: its files, the graphs that it runs, and a server on the loopback."""

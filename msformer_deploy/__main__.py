"""Entry point. Imports nothing at the top, so that Ctrl-C while the rest is being imported is an interruption too."""


def main() -> None:
    """Run the command line and exit."""
    try:
        import signal
        import warnings

        from .commands.streams import occupy_descriptors

        occupy_descriptors()  # before anything is opened that is not closed again

        # `kill` ends a command as Ctrl-C does: what is half made is removed first.
        signal.signal(signal.SIGTERM, signal.default_int_handler)

        warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
        from .cli import main as run

        run()
    except KeyboardInterrupt:
        import contextlib
        import os
        import sys

        with contextlib.suppress(OSError):
            os.write(2, b"error: interrupted\n")  # sys.stderr may be None
        sys.exit(130)


if __name__ == "__main__":
    main()

"""What executes the encoder: one interface, one module per runtime, each imported only when it is used."""

from .base import Backend, Encoded, Segmented
from .choose import open_backend

__all__ = ["Backend", "Encoded", "Segmented", "open_backend"]

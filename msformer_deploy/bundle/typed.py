"""The data of a JSON file as dataclasses: what is missing, or of another type than declared, is refused by msgspec."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def typed(data: Any, kind: type[T], name: str = "") -> T:
    """An instance of a dataclass, every value of its declared type. Further keys in the data are left alone.

    Args:
        data: as ``json.loads`` gives it.
        kind: the dataclass. Its annotations are types at run time as well.
        name: of the data in its file, for the message.

    Raises:
        ValueError: one line that says which value is wrong.
    """
    import msgspec  # 15 ms that a command without a bundle does not need

    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        place = f"{name}{where}".strip(".`")
        raise ValueError(f"{place}: {what}" if place else what) from None


def closed(data: Any, kind: type[T], name: str = "") -> T:
    """As :func:`typed`, with further keys refused: they would say how to compute something that is not known here."""
    made = typed(data, kind, name)
    if unknown := data.keys() - {each.name for each in fields(made)}:
        raise ValueError(f"{name}.{min(unknown)}: unknown".lstrip("."))
    return made

"""Makes docstrings Markdown for the site: a Sphinx role such as ``:class:`.Bundle``` becomes plain code."""

from __future__ import annotations

import re

from griffe import Extension, Object

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`[.~]*([^`]+)`")


class PlainRoles(Extension):
    """Applied by mkdocstrings to every docstring that it reads."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)

"""Bundles whose files a test changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msformer_deploy.bundle.draft import Draft
from msformer_deploy.bundle.folder import MANIFEST, Bundle


def relisted(folder: Path, facts: dict[str, Any] | None = None) -> Bundle:
    """The bundle with a new manifest, which lists the files there are now.

    Args:
        folder: of the bundle.
        facts: what the manifest says besides; by default what it said.
    """
    if facts is None:
        known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        facts = {key: value for key, value in known.items() if key not in ("schema_version", "files")}
    draft = Draft(folder, facts)
    draft.add(*(path.name for path in folder.iterdir() if path.name != MANIFEST))
    return draft.finish()

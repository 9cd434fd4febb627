"""The folder of a training run, and ``run.json`` in it: what is trained, how, and on what machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import files
from ...errors import DeployError, UsageError
from ...images.inputs import printable
from ...machine.versions import installed_versions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

RECORD = "run.json"


def check_place(path: Path, *, resume: bool, force: bool) -> None:
    """See that a run can go there, before anything is read.

    Args:
        path: of the folder.
        resume: a run is there already and goes on.
        force: replace a run; only a folder that holds a ``run.json`` is ever replaced.

    Raises:
        UsageError: it cannot.
    """
    name = printable(path)
    is_run = (path / RECORD).is_file()
    if resume:
        if not is_run:
            raise UsageError(f"{name}: there is no run to resume; drop --resume or name the folder of one")
    elif path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if not force:
            raise UsageError(f"{name}: exists already; choose another --output, or pass --resume or --force")
        if not is_run:
            raise UsageError(f"{name}: exists and is not a run, so --force will not replace it")
    parent = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise UsageError(f"{name}: cannot be written; choose another --output")


def begin(path: Path, record: Mapping[str, Any], fabric: Fabric, precision: str, *, resume: bool) -> None:
    """Make the folder of a run, or note that it goes on.

    Args:
        path: of the folder; :func:`check_place` has been asked. What is there is gone unless ``resume``.
        record: of the recipe.
        fabric: that will train.
        precision: its name in the command line.
        resume: leave what is there, and add this machine to it.

    Raises:
        DeployError: the folder cannot be written, or its record is damaged.
    """
    start = {
        "versions": installed_versions(),
        "device": _device_name(fabric),
        "processes": fabric.world_size,
        "precision": precision,
    }
    try:
        if resume:
            known = json.loads((path / RECORD).read_text(encoding="utf-8"))
            known["starts"].append(start)
        else:
            known = {**record, "starts": [start]}
            if path.exists():
                shutil.rmtree(path)
            path.mkdir(parents=True)
        files.write_text(path / RECORD, json.dumps(known, indent=1) + "\n")
    except OSError as error:
        raise DeployError(
            f"{printable(path)}: cannot be written ({error.strerror}); choose another --output"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeployError(f"{printable(path / RECORD)}: is damaged ({error}); begin another run") from error


def _device_name(fabric: Fabric) -> str:
    import torch

    return torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else "CPU"

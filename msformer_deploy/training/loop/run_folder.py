"""The folder of a training run and its ``run.json``: the system, the settings, the data and the machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import files
from ...errors import DeployError, UsageError, printable
from ...machine.versions import installed_versions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

RECORD = "run.json"


def check_place(path: Path, *, resume: bool, force: bool) -> None:
    """Check that a run can use a folder, before any file is read.

    Args:
        path: the folder.
        resume: continue the run in the folder.
        force: replace the run in the folder; only a folder with a ``run.json`` is ever replaced.

    Raises:
        UsageError: the run cannot use the folder.
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
    """Create the folder of a run, or record that the run continues.

    Args:
        path: the folder, after :func:`check_place`. Its content is deleted unless ``resume`` is set.
        record: record of the recipe.
        fabric: the Fabric that will train.
        precision: name of the precision on the command line.
        resume: keep the content of the folder, and add this machine to the record.

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

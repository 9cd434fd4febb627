"""Nothing is sent: what the runtimes would report to their makers is switched off before any of them is imported.

The package imports this module first, so every command, script, test and child process comes through here. The package
promises silence: a variable of the user's that would let a runtime report is overridden. ``docs/how-to/install.md``
says what was found in which library, and ``doctor`` tries it.
"""

from __future__ import annotations

import os
import sys
import warnings

# From 1.29 on, the import of ONNX Runtime writes an identifier and a database of events into the user's cache folder,
# and uploads the events later. Only this variable prevents all of it, and children inherit it. The values 0 and
# nothing leave telemetry on.
VARIABLE, OFF = "ORT_DISABLE_TELEMETRY", "1"

# The import of OpenVINO sends an event through this module, which also writes an identifier into the home folder. No
# variable prevents it. Where the module cannot be imported, OpenVINO takes a stand-in of its own that does nothing.
REPORTER = "openvino_telemetry"


def switch_off() -> None:
    """Switch telemetry off in this process and in all that it starts.

    Warns where ONNX Runtime was imported before with its telemetry on: what that import recorded cannot be stopped.
    """
    onnxruntime = sys.modules.get("onnxruntime")
    if onnxruntime is not None and os.environ.get(VARIABLE) != OFF:
        if hasattr(onnxruntime, "disable_telemetry_events"):  # stops what is to come, not what waits to be uploaded
            onnxruntime.disable_telemetry_events()
        warnings.warn(
            "onnxruntime was imported before msformer_deploy and may have reported to its maker;"
            f" import msformer_deploy first, or set {VARIABLE}={OFF}",
            stacklevel=2,
        )
    os.environ[VARIABLE] = OFF
    sys.modules[REPORTER] = None  # type: ignore[assignment]  # Python's mark for what cannot be imported


switch_off()

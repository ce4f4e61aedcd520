"""Few-shot learning on small boards: meta-train on a workstation, learn new classes on the board."""

import os
import sys
import warnings

__version__ = "0.1.0"

_SILENT = "ORT_DISABLE_TELEMETRY"
# From 1.29 on onnxruntime's wheels write device ids below $HOME and send usage data unless this is set before they are
# imported: by this program, or by another part of the same one after it.
if "onnxruntime" in sys.modules and _SILENT not in os.environ:
    warnings.warn(
        f"onnxruntime was imported before gems_edge, so its telemetry is on; import it after, or set {_SILENT}=1",
        stacklevel=2,
    )
os.environ[_SILENT] = "1"

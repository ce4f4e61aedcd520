"""Predictions are made on boards too: nothing heavy is imported for them."""

import subprocess
import sys


def test_nothing_of_the_workstation_is_imported():
    code = (
        "import sys, gems_edge.cost.latency, gems_edge.cost.memory, gems_edge.cost.profiles, gems_edge.cost.liveness\n"
        "import gems_edge.cost.arena\n"
        "assert not {'torch', 'onnx', 'numpy', 'onnxruntime', 'matplotlib'} & set(sys.modules), 'heavy'"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""

"""Predictions are made on boards too: nothing heavy is imported for them."""

import subprocess
import sys


def test_nothing_of_the_workstation_is_imported():
    code = (
        "import sys, gems_edge.predict.latency, gems_edge.predict.memory, gems_edge.predict.profiles, gems_edge.graphs.liveness\n"
        "import gems_edge.graphs.arena\n"
        "assert not {'torch', 'onnx', 'numpy', 'onnxruntime', 'matplotlib'} & set(sys.modules), 'heavy'"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""

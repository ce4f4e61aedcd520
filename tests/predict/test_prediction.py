"""Predictions are one record, and are made on boards too: nothing heavy is imported for them."""

import subprocess
import sys

from gems_edge.predict.prediction import Prediction


def test_nothing_of_the_workstation_is_imported():
    code = (
        "import sys, gems_edge.predict.latency, gems_edge.predict.memory, gems_edge.predict.profiles\n"
        "import gems_edge.graphs.liveness, gems_edge.graphs.arena\n"
        "assert not {'torch', 'onnx', 'numpy', 'onnxruntime', 'matplotlib'} & set(sys.modules), 'heavy'"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def test_a_prediction_is_told_in_one_way():
    time = Prediction(1.23456, 0.5, 2.0, "ms", "by hand")
    told = {"tag": "predicted", "source": "by hand"}
    assert time.as_dict() == {"value": 1.235, "interval": [0.5, 2.0], "unit": "ms"} | told
    assert time.as_dict("ms", digits=1, with_unit=False) == {"ms": 1.2, "interval": [0.5, 2.0]} | told
    assert time.as_figure("p50") == {"p50": 1.2346, "interval": {"p50": [0.5, 2.0]}, "unit": "ms"} | told
    assert (time.value_text(), time.interval_text(".0f")) == ("1.235 ms", "0 … 2")
    assert time.times(2) == Prediction(2.46912, 1.0, 4.0, "ms", "by hand")


def test_one_after_the_other_adds_ends_and_names_both_sources():
    first, second = Prediction(1.0, 0.5, 2.0, "ms", "by hand"), Prediction(3.0, 2.5, 4.0, "ms", "by foot")
    assert first.plus(second) == Prediction(4.0, 3.0, 6.0, "ms", "by hand; by foot")
    assert first.plus(first).source == "by hand"

"""From a run to a verified bundle: trace, lower, optimise, write plain ONNX, compare with torch."""

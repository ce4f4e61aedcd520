"""Rates of the machine this runs on, from small graphs that are timed on onnxruntime."""

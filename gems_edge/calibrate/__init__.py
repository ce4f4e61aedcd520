"""A profile of this machine, from small graphs that are timed on onnxruntime."""

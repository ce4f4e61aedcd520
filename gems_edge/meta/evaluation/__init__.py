"""Accuracies over episodes: of weights in training, of runs (torch) and of bundles (onnxruntime)."""

"""Passes over the graphs of a bundle, one a file: the pattern, why it may not be rewritten, the rewrite. onnx_ir."""

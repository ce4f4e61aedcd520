"""How onnxruntime rewrites a graph before it runs it, as far as its cost is concerned: a rule a file."""

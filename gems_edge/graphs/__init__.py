"""Everything that reads ONNX graphs: shapes, what a run costs, and what it asks of memory."""

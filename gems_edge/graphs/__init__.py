"""What an ONNX graph costs: shapes, MACs, bytes, memory over time."""

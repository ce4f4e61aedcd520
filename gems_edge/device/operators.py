"""The ONNX operators that a bundle's graphs may hold: those that an export writes. All compute on tensors alone.

export/builder.py writes no others, boards load no others. What each costs: its row in graphs/ops.py, whose table holds
those of a user's graph beside them, and which no board has.
"""

OPERATORS = frozenset(
    {
        # Products
        "Conv",
        "ConvTranspose",
        "MatMul",
        # Activations
        "Clip",
        "HardSigmoid",
        "LogSoftmax",
        "Relu",
        "Sigmoid",
        "Softplus",
        # Arithmetic
        "Abs",
        "Add",
        "Div",
        "Exp",
        "Max",
        "Mul",
        "Neg",
        "Reciprocal",
        "Sqrt",
        "Sub",
        # Conditions and types
        "And",
        "Cast",
        "Equal",
        "Greater",
        "Less",
        "Where",
        # Bytes
        "DequantizeLinear",
        "QuantizeLinear",
        # Normalisation, sums, pools
        "AveragePool",
        "BatchNormalization",
        "GlobalAveragePool",
        "MaxPool",
        "ReduceMean",
        "ReduceSum",
        # Views, copies and sizes
        "Concat",
        "Expand",
        "Gather",
        "Identity",
        "Pad",
        "Reshape",
        "Resize",
        "Shape",
        "Size",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
        # Image by image
        "Scan",
    }
)

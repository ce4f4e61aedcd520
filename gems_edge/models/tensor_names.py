"""How the tensors of a model are named, in files of weights and everywhere else: no torch.

"backbone.PATH.weight" and so on, then the head's ("head.weight", "head.bias": device/bundle.py), then φ.
"""

# What names of a backbone's tensors begin with.
BODY = "backbone."
# Names of an update rule's meta-parameters, which travel with a model's weights, begin with this.
ADAPTER = "adapter."
# Of a prototype head, as its logarithm: a meta-weight that no inner step moves.
TEMPERATURE = "head.temperature"
# Statistics of the pretraining, which travel with a model's weights in mode "frozen": constants of both loops.
_CONSTANTS = (".running_mean", ".running_var")


def is_constant(name: str) -> bool:
    """Whether a tensor of a model is one that no rule adapts and no optimiser moves."""
    return name.endswith(_CONSTANTS)

"""Few-shot learning on small boards: meta-train on a workstation, learn new classes on the board."""

__version__ = "0.1.0"

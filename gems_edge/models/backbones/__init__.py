"""Networks as ordinary torch modules: one file each, and a line in registry.py."""

"""Networks and their weights: layers, backbones, widths, masks."""

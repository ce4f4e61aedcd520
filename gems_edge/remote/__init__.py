"""Measuring a bundle on a board that is reached by ssh."""

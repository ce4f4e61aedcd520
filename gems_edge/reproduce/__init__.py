"""Reproducing a paper: one engine (grid of trainings, pooled results, verdicts, page) and a folder for each paper."""

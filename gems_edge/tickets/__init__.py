"""Masks and criteria, meta winning tickets and their baselines, channel tickets, mask analysis."""

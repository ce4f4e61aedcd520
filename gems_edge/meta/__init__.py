"""Meta-learning: the inner step, the outer loop, runs and their evaluation."""

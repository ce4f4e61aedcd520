"""The most that commands may be asked for: far beyond any use, and refused before memory or time is taken."""

CLASSES = 10_000  # of an episode
PER_CLASS = 10_000  # support or query images of a class of an episode
EPISODES = 1_000_000  # of one evaluation
STEPS = 10_000  # of a gradient in an episode
ITERATIONS = 1_000_000_000
THREADS = 1_024  # also processes, and trainings at a time
TRAININGS = 10_000  # of an entry of a study, by seed

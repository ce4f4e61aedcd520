"""Settings of a run as frozen dataclasses."""

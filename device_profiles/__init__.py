"""One TOML file per board, every fact with its source."""

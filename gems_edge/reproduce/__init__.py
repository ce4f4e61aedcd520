"""A paper's tables from one command: one engine, a folder for each paper."""

"""HTML pages about runs and bundles."""

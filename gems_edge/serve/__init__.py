"""serve: a local page and JSON over HTTP, to teach and to ask beside a live picture."""

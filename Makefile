# Everything on a bare machine with Python 3.11 or newer: `make demo`, `make test`, `make quick`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install demo lint test quick audit sbom lock clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gems-edge needs Python 3.11 or newer; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[train,serve,mqtt,test,lint]"
	touch $@

demo: install
	$(BIN)/gems-edge demo -o demo

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST)

# The inner loop: every room in minutes; what it leaves out is marked slow.
quick: install
	$(PYTEST) -m "not slow"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known vulnerabilities in what requirements/ locks; see SECURITY.md.
audit: install
	$(BIN)/python tools/audit.py

# What the board's package consists of, as CycloneDX: dist/gems-edge-board.cdx.json.
sbom: install
	$(BIN)/python tools/sbom.py

# The newest versions that pyproject.toml allows, with their hashes: what a board installs, and a workstation.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --upgrade pyproject.toml
lock: install
	$(LOCK) -o requirements/board.txt
	$(LOCK) --extra serve --extra mqtt -o requirements/board-serve.txt
	$(LOCK) --extra train --extra serve --extra mqtt --extra test --extra lint -o requirements/workstation.txt

clean:
	rm -rf $(VENV) build dist *.egg-info demo photo-demo

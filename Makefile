# `make demo` and `make test` work on a fresh machine with Python 3.11 or later and nothing else of ours.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_RUN := runs/demo

.PHONY: demo test check chaos lint types bench bench-peers mergekit browser docs families clean

demo: $(READY) ## scan the bundled model with the embedded farm, then say where the heatmap is
	$(BIN)/neuroscan-farm run --config configs/demo.yaml --workers 2 --output $(DEMO_RUN)
	@echo "Open $(DEMO_RUN)/report/index.html"

test: $(READY) browser ## all tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: lint types test ## what CI runs

chaos: $(READY) ## 200 random faults over 3,000 tasks, on a farm and on a local run: half an hour and more
	$(BIN)/python -m tests.faults.chaos --faults 200 --tasks 3000
	$(BIN)/python -m tests.faults.chaos --faults 200 --tasks 3000 --local

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

bench: bench-peers ## all measurements, the better part of an hour; see docs/benchmarks.md
	$(BIN)/python benchmarks/run.py --page

bench-peers: $(READY) ## install layer-scan and neuro-scan for `bench`, which leaves them out where that fails
	-$(BIN)/python benchmarks/peers.py

mergekit: $(READY) ## install mergekit in an environment of its own, merge with it, and verify what it made
	$(BIN)/python -m tests.checkpoints.mergekit_environment
	$(BIN)/python -m pytest -m mergekit tests/checkpoints

browser: ## the page is tested in a browser: Debian's chromium is installed where there is none
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] || sudo="sudo -n"; $$sudo apt-get -qq update && $$sudo apt-get -qq install --yes chromium; } || \
	  echo "no chromium, and none could be installed: the page's tests in a browser are left out"

docs: $(READY) ## write the reference pages from the code
	$(BIN)/python docs/generate.py

families: $(READY) ## try every causal family of transformers and write docs/families.md, a minute or two
	$(BIN)/python docs/families.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch first and pinned: a plain `torch` would bring gigabytes of CUDA packages where a CPU build is at hand.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

# Two commands do everything: `make demo` and `make test`; each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FRAMES ?= 0

.PHONY: setup demo test test-slow check bench clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "EMcopilot needs Python 3.11 or newer, got %d.%d; name another one: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[server,dev]'
	touch $@

demo: setup
	$(BIN)/emcopilot demo $(if $(filter-out 0,$(FRAMES)),--frames $(FRAMES) --headless)

# A worker a core, up to four; files stay whole, for they share what is slow to set up. One thread each: more
# would only wait for one another.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: setup
	$(BIN)/pytest -m slow --timeout 3600

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: setup
	$(BIN)/emcopilot bench live
	$(BIN)/emcopilot bench engine
	$(BIN)/emcopilot bench ingest

clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache .hypothesis

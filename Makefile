# The course's commands. `lab` and `test` create .venv and install what they need.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOG := $(VENV)/install.log
LAB_FLAGS ?=
WORKERS ?= auto
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9]*.ipynb))
# Tests and notebooks run side by side, one to a core, so each takes one thread.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: install lab test test-unit test-notebooks test-browser run bench workshop check-room site lint clean

install: $(VENV)/.course

lab: $(VENV)/.course
	$(BIN)/python -m jupyter lab $(LAB_FLAGS) notebooks/01_basics.ipynb

test: test-unit test-notebooks test-browser

test-unit: $(VENV)/.dev
	$(ONE_THREAD) MPLBACKEND=Agg $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

# Whole notebooks per worker, a fresh kernel each, first as a learner gets them, then with every exercise solved.
# `strict` fails a cell that writes to stderr and a kernel that dies.
test-notebooks: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadscope -o addopts= \
		-p tests.notebooks.strict -p no:python --nbval-lax --nbval-cell-timeout=90 $(NOTEBOOKS)
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) -o addopts= tests/notebooks/test_solved.py

# In a headless Chromium: a worker for JupyterLab and its notebooks, another for the site. Skipped without a Chromium.
test-browser: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -o addopts= tests/browser

run: $(VENV)/.dev
	$(BIN)/python tests/notebooks/run.py $(NOTEBOOKS)

# The peers live in an environment of their own.
bench:
	@$(MAKE) --no-print-directory VENV=.venv-bench .venv-bench/.bench
	.venv-bench/bin/python -m benchmarks $(if $(QUICK),--quick,--out benchmarks/RESULTS.md)

workshop: $(VENV)/.publish
	$(BIN)/python -m publish.workshop

# Says what to do where nothing is installed yet, so it must not install.
check-room:
	@if [ -x $(BIN)/python ]; then $(BIN)/python publish/room.py; else $(PYTHON) publish/room.py; fi

site: $(VENV)/.publish
	$(BIN)/python -m publish.build_site

lint: $(VENV)/.dev
	$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check .

clean:
	rm -rf $(VENV) .venv-bench build *.egg-info

# A stamp per set of extras, renewed when the list of dependencies changes: a second run starts at once.
$(VENV)/.course $(VENV)/.dev $(VENV)/.bench $(VENV)/.publish: $(VENV)/.%: pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "Python not found: install Python 3.11 or newer, or say make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version 2>&1): say make PYTHON=/path/to/python3"; exit 1; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { echo "Could not create $(VENV): is the venv module installed and the disk not full?"; exit 1; }
	@echo "Installing into $(VENV) (a few minutes the first time; log: $(LOG))"
	@$(BIN)/python -m pip install --retries 2 -c constraints.txt -e '.[$*]' > $(LOG) 2>&1 || { \
		if grep -qi 'no space left' $(LOG); then echo "No space left on the disk while installing: free about 3 GB (12 GB with CUDA) and run make again"; \
		elif grep -qiE 'connection|network|resolve|timed out|unreachable' $(LOG); then echo "No network while installing: connect and run make again (log: $(LOG))"; \
		else echo "Installing failed: $$(grep -m1 ERROR $(LOG)) (log: $(LOG))"; fi; exit 1; }
	@touch $@

# The course's commands; `make help` lists them. Whatever needs packages creates .venv and installs them first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOG := $(VENV)/install.log
LAB_FLAGS ?=
WORKERS ?= auto
# TORCH=cpu takes PyTorch without CUDA from this index, a URL or a folder of wheels. Once installed, that build stays.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH ?= $(if $(wildcard $(PACKAGES)/torch-*+cpu.dist-info),cpu)
CPU_TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)+cpu
PACKAGES = $(VENV)/lib/python3*/site-packages
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9]*.ipynb))
# Tests and notebooks run side by side, one to a core, so each takes one thread.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help install lab test test-quick test-unit test-notebooks test-browser run mutants bench workshop check-room site lint clean cpu-torch

help:
	@echo "make lab             install, then open JupyterLab on notebook 01 (LAB_FLAGS: its options)"
	@echo "make install         create .venv with the course and what it needs"
	@echo "make test            the three below: unit tests, every notebook, the browser (20 to 25 minutes)"
	@echo "make test-quick      lint, and the unit tests without the slow ones (under 4 minutes)"
	@echo "make test-unit       unit tests and doctests"
	@echo "make test-notebooks  every notebook in a fresh kernel, unsolved and solved"
	@echo "make test-browser    JupyterLab and the site in a headless Chromium"
	@echo "make run             execute every notebook and store its outputs"
	@echo "make mutants         wrong versions of the notebooks, each of which a claim must catch (MINUTES=10: the last changed)"
	@echo "make bench           speed beside the peers, into benchmarks/RESULTS.md (QUICK=1: a glance, not stored)"
	@echo "make workshop        build/workshop: notebooks, slides, handout and plan for a workshop"
	@echo "make check-room      is this machine ready for the workshop?"
	@echo "make site            build/site: the notebooks and the reference as pages"
	@echo "make lint            ruff's check and its format"
	@echo "make clean           remove .venv, .venv-bench and build"
	@echo "TORCH=cpu            with any of them, PyTorch without CUDA: on Linux without an NVIDIA GPU"
	@echo "PYTHON=, WORKERS=    the Python for .venv, the number of tests side by side"

install: $(VENV)/.course

lab: $(VENV)/.course
	@[ -z "$$HOME" ] || [ -w "$$HOME" ] || [ -n "$$JUPYTER_RUNTIME_DIR" ] || { echo "Jupyter keeps its files in your home, and nothing can be written into '$$HOME': say HOME=/another/folder make lab"; exit 1; }
	$(BIN)/python -m jupyter lab --LabApp.app_settings_dir=notebooks/lab $(LAB_FLAGS) notebooks/01_basics.ipynb

test:
	@for part in unit notebooks browser; do \
		start=$$(date +%s); $(MAKE) --no-print-directory test-$$part || exit 1; \
		times="$$times $$part $$(($$(date +%s) - start)) s,"; \
	done; echo "Passed:$${times%,}"

test-unit: $(VENV)/.dev
	$(ONE_THREAD) MPLBACKEND=Agg $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

# For a contributor's loop: what neither starts processes nor compiles nor draws.
test-quick: lint
	$(ONE_THREAD) MPLBACKEND=Agg $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow"

# Whole notebooks per worker, a fresh kernel each, first as a learner gets them, then with every exercise solved.
# `strict` fails a cell that writes to stderr and a kernel that dies.
test-notebooks: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadscope -o addopts= \
		-p tests.notebooks.strict -p no:python --nbval-lax --nbval-cell-timeout=90 $(NOTEBOOKS)
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) -o addopts= tests/notebooks/test_solved.py

# In a headless Chromium, skipped without one. How tests are dealt to the workers: tests/browser/conftest.py.
test-browser: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) -o addopts= tests/browser

run: $(VENV)/.dev
	$(BIN)/python -m tests.notebooks.run $(NOTEBOOKS)

mutants: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python -m tests.notebooks.mutate $(if $(MINUTES),--minutes $(MINUTES)) $(NOTEBOOKS)

# The peers live in an environment of their own.
bench:
	@$(MAKE) --no-print-directory VENV=.venv-bench $(if $(TORCH),TORCH=$(TORCH)) .venv-bench/.bench
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
$(VENV)/.course $(VENV)/.dev $(VENV)/.bench $(VENV)/.publish: $(VENV)/.%: pyproject.toml constraints.txt | $(if $(TORCH),cpu-torch)
	@$(ENVIRONMENT)
	@echo "Installing into $(VENV) (a few minutes the first time; log: $(LOG))"
	@$(BIN)/python -m pip install --retries 2 -c constraints.txt -e '.[$*]' > $(LOG) 2>&1 || { $(REASON); exit 1; }
	@touch $@

# PyTorch alone and first: what is installed next finds it there, and looks for nothing else on this index. The two
# exported variables take the place of what pip's own settings may name as further sources.
cpu-torch: export PIP_EXTRA_INDEX_URL = $(TORCH_INDEX)
cpu-torch: export PIP_FIND_LINKS = $(VENV)
cpu-torch: LOG = $(VENV)/torch.log
cpu-torch:
	@[ "$(TORCH)" = cpu ] || { echo "TORCH is cpu or nothing, not '$(TORCH)'"; exit 1; }; \
	[ "$$(uname)" = Linux ] || { echo "TORCH=cpu changes nothing here: only on Linux does PyTorch bring CUDA"; exit 0; }; \
	if [ -x $(BIN)/python ] && ls -d $(PACKAGES)/torch-$(CPU_TORCH).dist-info > /dev/null 2>&1; then $(KEPT); exit 0; fi; \
	$(ENVIRONMENT); \
	from=(--index-url '$(TORCH_INDEX)'); \
	[ ! -d '$(TORCH_INDEX)' ] || from=(--no-index --find-links '$(TORCH_INDEX)' --find-links '$(TORCH_INDEX)/torch'); \
	timeout 20 $(BIN)/python -m pip index versions torch -vv --timeout 10 --retries 0 "$${from[@]}" > $(LOG) 2>&1; answer=$$?; \
	if ! grep -qE '^Available versions:.* $(subst +,\+,$(CPU_TORCH))(,|$$)' $(LOG); then \
		if [ $$answer = 124 ] || grep -qE "Could not fetch URL|/torch/' is ignored|not a trusted" $(LOG); then \
			problem="cannot be reached"; else problem="has no torch $(CPU_TORCH) for this Python"; fi; \
		echo "TORCH=cpu: $(TORCH_INDEX) $$problem (log: $(LOG)), going on with PyTorch's default build"; exit 0; \
	fi; \
	echo "Installing PyTorch's CPU build into $(VENV), in place of any other (log: $(LOG))"; \
	$(BIN)/python -m pip install --no-deps --timeout 10 --retries 1 "$${from[@]}" torch==$(CPU_TORCH) > $(LOG) 2>&1 \
		|| { $(REASON); exit 1; }; \
	cuda=$$(ls $(PACKAGES) | sed -nE 's/^((nvidia|cuda)_[^-]*|triton)-.*\.dist-info$$/\1/p'); \
	[ -z "$$cuda" ] || $(BIN)/python -m pip uninstall -y $$cuda >> $(LOG) 2>&1

# What follows are parts of recipes.
define ENVIRONMENT
command -v $(PYTHON) > /dev/null || { echo "Python not found: install Python 3.11 or newer, or say make PYTHON=/path/to/python3"; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version 2>&1): say make PYTHON=/path/to/python3"; exit 1; }; \
for place in . $(wildcard $(VENV)); do [ -w $$place ] || { echo "Nothing can be written into $$(cd $$place && pwd): copy the course to a folder of yours and run make there"; exit 1; }; done; \
$(BIN)/python -c 'import pip' > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) > /dev/null 2>&1 || { \
	if $(FULL); then echo "$(NO_SPACE)"; else echo "Could not create $(VENV): is Python's venv module installed (on Debian and Ubuntu the package python3-venv)?"; fi; exit 1; }
endef

# A full disk may have had no room for the log that would say so.
FULL = [ "$$(df -Pk . | awk 'NR == 2 { print $$4 }')" -lt 20000 ] 2> /dev/null
NO_SPACE = No space left on the disk while installing: free about 3 GB (12 GB with CUDA) and run make again

define REASON
if $(FULL) || grep -qiE 'no space left|quota exceeded' $(LOG); then echo "$(NO_SPACE)"; \
elif grep -qiE 'connection|network|name resolution|failed to resolve|timed out|unreachable' $(LOG); then echo "No network while installing: connect and run make again (log: $(LOG))"; \
else echo "Installing failed: $$(grep -m1 ERROR $(LOG)) (log: $(LOG))"; fi
endef

KEPT = $(if $(filter file,$(origin TORCH)),echo "PyTorch in $(VENV) stays the CPU build (for the default one: make clean, then make again)",:)

# `make main` and `make test` need nothing but Python 3.11 or newer. They make .venv and install the packages of
# requirements.lock there; pip refuses a file whose checksum is not in that list.
PYTHON ?= python3
VENV ?= .venv

main: $(VENV)/installed
	$(VENV)/bin/python train_task1.py --out runs/main --resume
	$(VENV)/bin/python eval_channels.py runs/main/model.pt

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -q

$(VENV)/installed: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

# breaks things on purpose, under ten minutes; writes results/robustness.csv
robust: $(VENV)/installed
	$(VENV)/bin/python -m tests.robust

# breaks the code on purpose: each of these changes must make a test fail
mutants: $(VENV)/installed
	$(VENV)/bin/python -m tests.mutants

# after a change of requirements.txt; needs pip-tools. CUDA's packages exist for Linux alone.
lock:
	pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-emit-options \
	  --annotation-style=line --output-file requirements.lock requirements.txt
	sed -i -E '/^(nvidia|cuda|triton)/ { /sys_platform/! s/ \\$$/ ; sys_platform == "linux" \\/ }' requirements.lock

.PHONY: main test robust mutants lock

# `make main`, `make task2` and `make test` need nothing but Python 3.11 to 3.13. They make .venv and install the packages of
# requirements.lock there; pip refuses a file whose checksum is not in that list.
PYTHON ?= python3
VENV ?= .venv
# an environment whose Python was removed since is made again
ifeq ($(shell $(VENV)/bin/python -c 'print(1)' 2>/dev/null),)
$(shell rm -f $(VENV)/installed)
endif

# Huge pages of memory make a training on a CPU faster. An evaluation does without: it measures latency.
HUGE_PAGES = GLIBC_TUNABLES=$${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

# Without cached bytecode, every process would compile PyTorch and the other packages anew, for about ten seconds.
unexport PYTHONDONTWRITEBYTECODE

main: $(VENV)/installed
	$(HUGE_PAGES) $(VENV)/bin/python train_task1.py --out runs/main --resume
	$(VENV)/bin/python eval_channels.py runs/main/model.pt

task2: $(VENV)/installed
	$(HUGE_PAGES) $(VENV)/bin/python train_task2.py --out runs/task2 --resume
	$(VENV)/bin/python eval_shallow.py runs/task2/model.pt

test: $(VENV)/installed
	$(HUGE_PAGES) $(VENV)/bin/python -m pytest -q -n 2 --dist worksteal

# --no-compile: Python compiles a module at its first import; to compile all 12,000 files takes more than a minute
$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "error: $(PYTHON) is \
	$$($(PYTHON) --version 2>&1); Python 3.11, 3.12 or 3.13 is needed: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@test ! -L $(VENV) || { echo "error: $(VENV) is a link, and make would empty the folder behind it: \
	delete the link, or name another folder: make $(MAKECMDGOALS) VENV=FOLDER" >&2; exit 2; }
	@test ! -e $(VENV) -o -f $(VENV)/pyvenv.cfg || { echo "error: $(VENV) is there and no virtual environment: \
	delete it, or name another: make $(MAKECMDGOALS) VENV=FOLDER" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)  # whatever an interrupted make or another Python left there
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	touch $@

# breaks things on purpose, about ten minutes; writes results/robustness.csv
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

.PHONY: main task2 test robust mutants lock

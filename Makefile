# `make main` and `make test` need nothing but Python 3.11 or newer: they make .venv and install what is pinned.
PYTHON ?= python3
VENV ?= .venv

main: $(VENV)/installed
	$(VENV)/bin/python train_task1.py --out runs/main --resume
	$(VENV)/bin/python eval_channels.py runs/main/model.pt

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -q

$(VENV)/installed: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

robust: $(VENV)/installed
	$(VENV)/bin/python -m tools.robust

.PHONY: main test robust

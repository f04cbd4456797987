# Everything a newcomer or CI needs. `make` lists the targets; each does all the set-up it needs and can be repeated.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := .venv-peers
DEMO := demo
TEST_PROCESSES ?= 2

.PHONY: help
help: ## List the targets
	@echo "medunet: make TARGET"
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

.PHONY: install
install: $(INSTALLED) ## Create .venv and install medunet with the tested versions

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medunet needs Python 3.11 or newer; this is %s. Try: make PYTHON=python3.11" % sys.version.split()[0])'
	@echo "== Installing into $(VENV) (some minutes, once) =="
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --group dev --editable .
	@touch $@

.PHONY: demo
demo: $(INSTALLED) ## Learn from synthetic CT, segment unseen scans, score them, draw a picture
	@export MEDUNET_HOME=$(DEMO)/runs; \
	echo "== 1/4 Unseen patients: synthetic pelvic CT that training never sees =="; \
	$(BIN)/medunet phantom --task prostate-ct -n 4 --seed 1 -o $(DEMO)/unseen; \
	echo "== 2/4 medunet train --task prostate-ct =="; \
	rm -rf $(DEMO)/runs/prostate-ct; \
	$(BIN)/medunet train --task prostate-ct -o $(DEMO)/runs/prostate-ct; \
	echo "== 3/4 medunet infer: the unseen scans =="; \
	$(BIN)/medunet infer $(DEMO)/unseen/imagesTr -o $(DEMO)/masks --model $(DEMO)/runs/prostate-ct --overwrite; \
	echo "== 4/4 medunet evaluate: against the known truth =="; \
	$(BIN)/medunet evaluate $(DEMO)/masks $(DEMO)/unseen/labelsTr --task prostate-ct -o $(DEMO)/scores.csv \
	    --html $(DEMO)/scores.html --images $(DEMO)/unseen/imagesTr --pictures $(DEMO)/pictures --overwrite; \
	echo "Model:   $(DEMO)/runs/prostate-ct (start with card.md)"

PICTURES := $(DEMO)/docs

.PHONY: pictures
pictures: demo ## Write every picture of docs/images anew (after the demo; viewer.png needs Chromium)
	rm -rf $(PICTURES)
	$(BIN)/python examples/evaluation_report.py --output $(PICTURES)/report
	$(BIN)/python examples/viewer_page.py --output $(PICTURES)/viewer --picture
	$(BIN)/python benchmarks/draw_inference.py docs/benchmarks/inference.csv -o $(PICTURES)/inference.png
	cp $(DEMO)/pictures/pelvis_000.png docs/images/demo.png
	cp $(PICTURES)/report/worst.jpg docs/images/report.jpg
	cp $(PICTURES)/viewer/viewer.png docs/images/viewer.png
	cp $(PICTURES)/inference.png docs/images/bench-inference.png

.PHONY: test
test: $(INSTALLED) lint types imports ## Linters, types, import order, tests (what CI runs)
	@echo "== Tests =="
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_PROCESSES) --dist worksteal -m "not slow and not gpu and not bench"

.PHONY: slow
slow: $(INSTALLED) ## The tests that take minutes
	$(BIN)/pytest -m slow

.PHONY: lint
lint: $(INSTALLED) ## ruff: rules and format
	@echo "== Lint =="
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(INSTALLED) ## mypy, strict
	@echo "== Types =="
	$(BIN)/mypy

.PHONY: imports
imports: $(INSTALLED) ## Rooms import only from rooms above them
	@echo "== Import order =="
	$(BIN)/lint-imports

.PHONY: peers
peers: $(PEERS)/.installed ## Create .venv-peers: medunet, nnU-Net and MLflow in one interpreter

# torchvision is in the way of nnU-Net beside a CPU build of torch, and nnU-Net does not need it.
$(PEERS)/.installed: pyproject.toml constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	{ echo 'torchvision==0.28.0'; cat constraints.txt; } > $(PEERS)/constraints.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c $(PEERS)/constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c $(PEERS)/constraints.txt --group test --editable '.[bench,mlflow]' torchvision
	$(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

.PHONY: parity
parity: $(PEERS)/.installed ## Plans, networks and scores beside those of nnU-Net; following a training in MLflow itself
	$(PEERS)/bin/python -m pytest -m bench
	$(PEERS)/bin/python -m pytest tests/training/test_tracking.py -k mlflow

.PHONY: bench
bench: $(INSTALLED) ## medunet beside its peers, as ratios
	$(BIN)/python benchmarks/bench_augmentation.py
	$(BIN)/python benchmarks/bench_dicom_reading.py
	$(BIN)/python benchmarks/bench_metrics.py
	$(BIN)/python benchmarks/bench_gzip.py
	$(BIN)/python benchmarks/bench_store.py

.PHONY: bench-nnunet
bench-nnunet: $(PEERS)/.installed ## Training beside nnU-Net (hours): make bench-nnunet DATA=path/of/hippocampus
	$(PEERS)/bin/python benchmarks/bench_training_data.py --data $(DATA)
	$(PEERS)/bin/python benchmarks/bench_training_step.py
	$(PEERS)/bin/python benchmarks/bench_recipe.py --data $(DATA)
	$(PEERS)/bin/python benchmarks/bench_accuracy_budget.py --data $(DATA) --minutes 5,15 -o accuracy

.PHONY: bench-inference
bench-inference: $(PEERS)/.installed ## Inference beside nnU-Net and MONAI (25 min): make bench-inference REAL=path/of/real/scans
	$(PEERS)/bin/python benchmarks/bench_inference.py -o inference $(if $(REAL),--real $(REAL))

.PHONY: clean
clean: ## Remove .venv, caches and the demo
	rm -rf $(VENV) $(PEERS) $(DEMO) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

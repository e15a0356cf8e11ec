# Everything sets itself up: a fresh clone needs Python 3.11 to 3.13 and make.
PYTHON ?= python3
BIN := .venv/bin
CORE := .venv/.core-installed
DEV := .venv/.dev-installed
DOCS := .venv/.docs-installed

OLDEST := .venv/oldest-transformers

.PHONY: package demo test test-all families coverage check docs matrix bench parity mini clean

demo: $(CORE)  ## explain the bundled scenes by several methods, write clew-demo.html
	$(BIN)/clew demo

test: $(DEV)  ## run the tests: of those that try many cases a fixed part, or at least a share (make test CASES=0.5)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(if $(CASES),--cases $(CASES))

test-all: $(DEV)  ## run the tests with all their cases
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --all-cases

families: $(DEV)  ## explain a tiny model of every family of transformers and timm (three minutes on two cores)
	CLEW_FAMILIES=all HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --all-cases tests/streams/test_families.py

coverage: $(DEV)  ## branch coverage of `make test`
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --cov=clew --cov-branch --cov-report=term

check: $(DEV)  ## style, types, dead code, and files above 400 lines
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	! find src -name '*.py' | xargs wc -l | awk '$$1 > 400 && $$2 != "total"' | grep .
	$(BIN)/pyright
	$(BIN)/vulture

docs: $(DOCS)  ## run all code of the documents, and build the site into site/; whatever is wrong is an error
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --all-cases tests/documents/test_docs.py tests/documents/test_reference.py
	HF_HUB_OFFLINE=1 NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

package: $(DEV)  ## build sdist and wheel into dist/, check them, and try the wheel alone in an empty environment
	rm -rf dist .venv/wheel-alone
	$(BIN)/python -m pip install -q build hatchling twine check-wheel-contents
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents --ignore W002 dist/*.whl  # two models may measure alike
	$(BIN)/python -m venv .venv/wheel-alone
	.venv/wheel-alone/bin/python -m pip install -q dist/*.whl
	cd .venv/wheel-alone && bin/clew demo --out demo.html && test -s demo.html
	rm -rf .venv/wheel-alone

matrix: $(DEV) $(OLDEST)/.installed  ## the promises of every architecture under the oldest supported transformers
	PYTHONPATH=$(OLDEST) HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --all-cases tests/models/test_contract.py tests/models/test_contract_of_texts.py \
	  tests/explaining/test_texts.py tests/targets/test_text_targets.py tests/attributions/test_text.py tests/explainers/test_methods_on_texts.py tests/test_parity.py \
	  tests/explaining/test_pairs.py tests/loading/test_load_pairs.py tests/explaining/test_answers.py

bench: $(DEV)  ## measure speed and memory, and write the tables of docs/benchmarks.md
	$(BIN)/python measurements/speed.py
	$(BIN)/python measurements/speed_text.py
	$(BIN)/python measurements/speed_pairs.py
	$(BIN)/python measurements/speed_evaluation.py
	$(BIN)/python measurements/checks.py
	$(BIN)/python measurements/page_memory.py
	$(BIN)/python measurements/startup.py
	$(BIN)/python measurements/models.py

parity: $(DEV)  ## compare with golden arrays: make parity GOLDENS=DIR
	$(BIN)/python tests/parity.py $(or $(GOLDENS),tests/goldens)

mini: $(DEV)  ## train the bundled models again (about an hour)
	$(BIN)/python -m pip install -q -e '.[train]'
	$(BIN)/python -m clew.minis.train_digits
	$(BIN)/python -m clew.minis.train_pairs
	$(BIN)/python -m clew.minis.train_reviews bert
	$(BIN)/python -m clew.minis.train_reviews llama

$(OLDEST)/.installed: $(DEV)
	rm -rf $(OLDEST)
	$(BIN)/python -m pip install -q --no-deps --target $(OLDEST) transformers==4.56.0 'tokenizers>=0.22,<0.23' \
	  'huggingface-hub>=0.34,<1' requests urllib3 charset-normalizer idna certifi
	touch $@

clean:
	rm -rf .venv clew-demo.html site

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "clew needs Python 3.11 to 3.13: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

$(CORE): .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e .
	touch $@

$(DEV): .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e '.[timm,bench,dev]'
	touch $@ $(CORE)

$(DOCS): $(DEV)
	$(BIN)/python -m pip install -q -e '.[docs]'
	touch $@

# `make tour` runs the main job, `make check` formats, lints, types and tests. Both set up what they need.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

.PHONY: setup run tour check test slow golden zoo format types web web-check picture space
setup: $(READY)

run: $(READY)  ## open the editor
	$(BIN)/canvas-rt

tour: $(READY)  ## open a Llama, edit it, see what it costs, get proven code back
	BIN=$(BIN) sh scripts/tour.sh

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q -n 2

test: $(READY)
	$(BIN)/pytest -q -n 2

slow: $(READY)
	$(BIN)/pytest -q -n 2 -m slow

zoo: $(READY)  ## regenerate the zoo's documents
	$(BIN)/python -m canvas_rt.importer.zoo_build

golden: $(READY)  ## write the emitted code of each family of the zoo anew, for its diff to be read
	UPDATE_GOLDEN=1 $(BIN)/pytest -q tests/codegen/test_golden.py

picture: $(READY)  ## take the README's picture of the editor anew
	$(BIN)/python scripts/picture.py

types: $(READY)  ## the browser's types, from the messages in Python
	$(BIN)/python -m canvas_ui.typescript

web: types  ## build the editor's bundle; needs node 20, which users do not
	cd ui/web && npm ci --silent && npm run --silent build
	$(BIN)/python -m canvas_ui.bundle

web-check: $(READY)  ## rebuild the bundle and compare it, byte for byte, with the committed one
	rm -rf build/web && mkdir -p build && cp -r ui/web build/web
	cd build/web && npm ci --silent && npm run --silent check && npx --no-install vite build --logLevel warn --outDir ../static --emptyOutDir
	cmp build/static/canvas.js ui/canvas_ui/static/canvas.js
	cmp build/static/canvas.css ui/canvas_ui/static/canvas.css

space: $(READY)  ## put together the folder that deploys to Hugging Face Spaces
	$(BIN)/python scripts/space.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

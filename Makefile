# Everything starts from Python 3.11 and make. Versions are pinned in constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
DOCS := $(VENV)/.ready-docs
GPU := build/gpu-venv
FLOORS := build/floors-venv
# Where dependencies are used: commands, images, bundles, backends, metrics, pictures, slices and training's devices.
FLOORS_WITHOUT := slow or gpu or trt or data or golden
FLOORS_TESTS := $(addprefix tests/msformer_deploy/,backends bundle commands/test_run.py commands/test_inspect.py \
	commands/test_evaluate.py benchmark/test_picture.py evaluation foreground/test_candidates.py foreground/test_morphology.py \
	$(addprefix images/,decoders dicom volumes test_hdf5.py test_draw.py test_label_files.py test_read.py test_seg.py) \
	dicom_node measures refinement/test_head.py \
	results/test_gallery.py results/test_report.py service training/loop/test_devices.py training/semi_supervised/test_slices.py \
	test_cli.py test_segmenter.py)
VALIDATE := $(BIN)/check-jsonschema --builtin-schema
WORKERS ?= 2
DATA ?= ../shared/data

.PHONY: demo test suite check fast floors test-pythons lint schemas types docs kernels web gpu-check wheel clean

demo: $(READY)  ## segment sample images; ends with the place of the pictures
	$(BIN)/msformer-deploy run $$($(BIN)/python -m msformer_deploy.images.samples) --output demo --force

test: $(DEV)  ## lint, types and all tests; CI leaves out the exhaustive ones, and also runs docs, floors and test-pythons
	@# Lint and types are checked beside the tests: no core waits.
	$(MAKE) --jobs=3 lint types suite

suite: $(DEV)
	$(BIN)/pytest --numprocesses $(WORKERS) $(WITHOUT:%=-m "not %")

check: $(DEV)  ## the same without the slow tests
	@# Types are checked on one core, beside the tests.
	$(MAKE) --jobs=2 lint types fast

fast: $(DEV)
	$(BIN)/pytest --numprocesses $(WORKERS) -m "not (slow or made_first)"

floors: $(FLOORS)/.ready  ## the runtime's tests with the lowest version of each dependency that pyproject.toml allows
	$(FLOORS)/bin/python -m pytest --numprocesses $(WORKERS) -m "not ($(FLOORS_WITHOUT))" $(FLOORS_TESTS)

test-pythons: $(DEV)  ## the wheel with each Python from 3.10 to 3.13 that is here, in empty environments without torch
	rm -rf build/pythons
	$(BIN)/python -m build --wheel --no-isolation --outdir build/pythons
	$(BIN)/python .ci/pythons.py build/pythons/*.whl --jobs $(WORKERS) $(TESTED:%=--tested %)

lint: $(DEV) schemas
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --cache-dir build/import-linter

# The schemas come with check-jsonschema, so no network is needed.
schemas: $(DEV)
	$(VALIDATE) vendor.github-workflows .github/workflows/*.yml
	$(VALIDATE) custom.github-workflows-require-timeout .github/workflows/*.yml
	$(VALIDATE) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(VALIDATE) vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(VALIDATE) vendor.dependabot .github/dependabot.yml
	$(VALIDATE) vendor.citation-file-format CITATION.cff

types: $(DEV)
	$(BIN)/mypy -p msformer_deploy

docs: $(DOCS)  ## build the documentation site into build/site; a warning is a failure
	@# Not with --quiet, under which --strict counts no warnings.
	rm -rf build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python .ci/site.py build/site

kernels: $(DEV)  ## compile every CUDA kernel for every device; no GPU needed
	$(BIN)/python -m msformer_deploy.kernels

web: web/node_modules/.ready  ## build the page of msformer-deploy web into the package; needs Node.js
	npm run build --prefix web

gpu-check: $(GPU)/.ready $(GPU)/parts  ## build, check and time kernels, engines and backends on this machine's GPU
	PYTHON=$(GPU)/bin/python scripts/gpu_hour.sh --parts $(GPU)/parts --output build/gpu-check --data $(DATA)

wheel: $(DEV)
	$(BIN)/python -m build --wheel --no-isolation

$(READY): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[cpu,openvino,samples]"
	touch $@

# Separate, because the demonstration needs neither linters nor the CUDA compiler.
$(DEV): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[cpu,dev]"
	touch $@

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[cpu,docs]"
	touch $@

# Made anew: pip would keep a newer version of what the direct dependencies bring.
$(FLOORS)/.dependencies: pyproject.toml setup.py .ci/floors.py
	rm -rf $(FLOORS)
	$(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python .ci/floors.py > $(FLOORS)/requirements.txt
	$(FLOORS)/bin/python -m pip install --quiet --only-binary :all: --requirement $(FLOORS)/requirements.txt
	touch $@

# A step of its own: two editable installations at one time would write the same files.
$(FLOORS)/.ready: $(FLOORS)/.dependencies
	$(FLOORS)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

# An environment of its own: the wheels of [cpu] and [gpu] overwrite each other. It sees the system's packages, because
# that is where JetPack and apt put TensorRT. What was installed there before, such as builds for CUDA 12, is kept: a
# package of the system is not pinned. WHEELS=FOLDER installs from wheels in a folder, without a network.
$(GPU)/.ready: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c "import ctypes; ctypes.CDLL('libcuda.so.1')" 2>/dev/null || { echo "error: there is no NVIDIA driver (libcuda.so.1 is not found)" >&2; exit 4; }
	$(PYTHON) -m venv --system-site-packages $(GPU)
	$(GPU)/bin/python .ci/gpu_constraints.py > $(GPU)/constraints.txt
	$(GPU)/bin/python -m pip install --quiet $(WHEELS:%=--no-index --no-build-isolation --find-links %) --constraint $(GPU)/constraints.txt --editable ".[gpu,dev]"
	touch $@

$(GPU)/parts: $(GPU)/.ready
	$(GPU)/bin/python scripts/gpu_parts.py --without-wheels $@

# The built page is in the repository, so only those who change the page, and its tests, need this.
web/node_modules/.ready: web/package-lock.json
	npm ci --prefix web --no-audit --no-fund
	touch $@

clean:
	rm -rf web/node_modules $(VENV) build dist demo *.egg-info

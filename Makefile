# A thin layer over `uv run`; every target sets up what it needs. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
export PATH := $(PATH):$(HOME)/.local/bin:/usr/local/go/bin

LAB ?= lab
PROFILE ?= default
REPEAT ?= 5
OUT ?= out/drills
PYTEST_ARGS ?=
SEEDS ?= 20000

SETUP := .venv/.graf-setup
GRAF := .venv/bin/graf
UV_RUN := uv run --frozen --no-sync
# The lab makes network namespaces, mounts and cgroups; so do some tests.
SUDO := $(shell command -v sudo)
ROOT = $(if $(filter 0,$(shell id -u)),,$(if $(SUDO),sudo --preserve-env=HOME,GRAF_LAB_DIR,GRAF_CACHE_DIR,GRAF_CONTROL_PLANE_DIR env PATH="$(PATH)",$(error this target needs root, and there is no sudo here: run make as root)))
SCENARIOS := db-crash site-loss site-partition site-freeze standby-loss manager-loss switchover
REGRESSIONS := github-2018 relay-log-discard semi-sync-fallback replication-only-partition flapping-11s-5s \
  lease-lost-in-recovery manager-and-active-lost-together coordinator-paused both-sites-back-at-once \
  operator-at-wrong-side standby-then-active-lost whole-machine-paused
# Folders of tests that are checked with the same strictness, one at a time: each may have its own conftest.
TYPED_TESTS := tests/author tests/cli tests/core tests/crd tests/docs tests/drill tests/lab tests/layers tests/scenario tests/sim \
  drivers/sdk/tests drivers/fake/tests drivers/network/tests drivers/objects/tests drivers/pv/tests drivers/workload/tests drivers/sanity/tests drivers/examples/go/tests drivers/examples/redis/tests
PACKAGES := graf graf_orchestrator graf_driver_sdk graf_driver_fake graf_driver_mysql graf_driver_network graf_driver_objects graf_driver_pv graf_driver_workload graf_driver_sanity graf_driver_redis

.PHONY: help pv-kills bench-pv setup programs lab drill drills volume-drill workload-drill groups-drill scope-drill sim regressions test network-sanity workload-sanity objects-sanity pv-sanity mysql-sanity mysql-lts-sanity mysql-long redis-sanity check lint types layers generated docs-check generate clean fuzz

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(SETUP) ## Install system packages, uv and the Python environment; leaves .venv/bin/graf

$(SETUP): tools/setup.sh tools/mysql_server.sh pyproject.toml uv.lock $(wildcard drivers/*/pyproject.toml drivers/examples/*/pyproject.toml) orchestrator/pyproject.toml
	tools/setup.sh
	touch $@

programs: $(SETUP) ## Fetch or build etcd, Kubernetes, containerd, CNI and runc (once per machine)
	$(ROOT) .venv/bin/python tools/programs.py

lab: $(SETUP) ## Bring the lab up, or repair it (LAB=name); down again: .venv/bin/graf lab down
	$(ROOT) $(GRAF) lab up --name $(LAB)

drill: lab ## Lose the active site under load, see failover and failback; the lab stays up
	$(ROOT) $(GRAF) drill run site-loss --lab $(LAB) --profile $(PROFILE)
	@echo
	@echo "The lab is still up. Look at it:"
	@echo "  $(GRAF) status --lab $(LAB)            who is active, epoch, lease, lag"
	@echo "  $(GRAF) events vcu-db --lab $(LAB)     what was decided, and why"
	@echo "  $(GRAF) lab status --name $(LAB)       what runs where"
	@echo "  $(GRAF) drill list                     more ways to break it"
	@echo "Take it down:"
	@echo "  $(GRAF) lab down --name $(LAB)"

drills: lab ## All seven scenarios that any lab can run, REPEAT=5 times each (PROFILE=metro|regional|wan)
	@failed=; for name in $(SCENARIOS); do \
	  $(ROOT) $(GRAF) drill run $$name --lab $(LAB) --profile $(PROFILE) --repeat $(REPEAT) \
	    --out $(OUT)/$(PROFILE)/$$name || failed="$$failed $$name"; \
	done; \
	if [ -n "$$failed" ]; then echo "not passed:$$failed; reports: $(OUT)/$(PROFILE)"; exit 1; fi; \
	echo "all passed; reports: $(OUT)/$(PROFILE)"

volume-drill: $(SETUP) ## A lab of its own with a volume (lab `volume`): lose the volume, then the site (REPEAT=5)
	$(ROOT) $(GRAF) lab up --name volume --volume
	$(ROOT) $(GRAF) drill run volume-loss --lab volume --profile $(PROFILE) --repeat $(REPEAT) --out $(OUT)/$(PROFILE)/volume-loss

workload-drill: $(SETUP) ## A lab of its own with a Deployment and its configuration (lab `workload`): move both (REPEAT=5)
	$(ROOT) $(GRAF) lab up --name workload --workload
	$(ROOT) $(GRAF) drill run workload-move --lab workload --profile $(PROFILE) --repeat $(REPEAT) --out $(OUT)/$(PROFILE)/workload-move

groups-drill: $(SETUP) ## A lab of its own with two groups, active at different sites (lab `groups`): lose each site in turn (REPEAT=5)
	$(ROOT) $(GRAF) lab up --name groups --groups
	$(ROOT) $(GRAF) drill run two-groups --lab groups --profile $(PROFILE) --repeat $(REPEAT) --out $(OUT)/$(PROFILE)/two-groups

scope-drill: $(SETUP) ## A lab of its own with a part of each database server (lab `scope`): lose the site (REPEAT=5)
	$(ROOT) $(GRAF) lab up --name scope --scope
	$(ROOT) $(GRAF) drill run table-scope --lab scope --profile $(PROFILE) --repeat $(REPEAT) --out $(OUT)/$(PROFILE)/table-scope

regressions: lab ## The twelve known disasters, once each, from the files that the simulator runs too (PROFILE=...)
	@failed=; for name in $(REGRESSIONS); do \
	  $(ROOT) $(GRAF) drill run $$name --lab $(LAB) --profile $(PROFILE) \
	    --out $(OUT)/regressions/$$name || failed="$$failed $$name"; \
	done; \
	if [ -n "$$failed" ]; then echo "not passed:$$failed; reports: $(OUT)/regressions"; exit 1; fi; \
	echo "all passed; reports: $(OUT)/regressions"

sim: $(SETUP) ## The simulator's long campaign (SEEDS=20000), all planted bugs, the exhaustive check
	$(GRAF) sim run --seeds $(SEEDS)
	$(GRAF) sim ablate
	$(GRAF) sim explore

pv-kills: $(SETUP) ## Kill the pv driver's copy 50 times, with rsync and with restic; what is opened must be complete
	rm -f out/pv-kills.txt
	GRAF_PV_KILLS=50 GRAF_PV_KILLS_OUT=out/pv-kills.txt nice $(UV_RUN) python -m pytest -q --timeout 3600 drivers/pv/tests/test_pv_kills.py
	cat out/pv-kills.txt

bench-pv: $(SETUP) ## 1 GiB in 10,000 files, 1 % changed: the pv driver against plain rsync; raw data in out/
	nice $(UV_RUN) python drivers/pv/benchmarks/sync.py --out out/bench-pv.json

# Two files of tests at once: most of them wait for servers and time-outs. PROCESSES=0 runs one after the other. In the order
# of the folders: else the files with one long test come last, and one process waits for the other.
PROCESSES := 2

test: programs ## Run every test without a target of its own, the end-to-end drill in a lab of its own too (PROCESSES=2)
	$(ROOT) .venv/bin/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# The default suite plays the same generated examples each time; this one looks for new ones.
PROPERTIES := tests/core/test_decide.py tests/core/test_holding.py tests/drill/test_measure.py drivers/mysql/tests/test_mysql_values.py

fuzz: $(SETUP) ## The generated tests with new random examples, again and again (REPEAT=5)
	for run in $$(seq $(REPEAT)); do $(UV_RUN) python -m pytest -q --hypothesis-profile=default $(PROPERTIES); done

network-sanity: programs ## The conformance kit against the network driver in each mode (ten minutes; reports in out/sanity)
	$(ROOT) .venv/bin/python -m pytest -q drivers/network/tests/conformance/check_modes.py

objects-sanity: programs ## The conformance kit against the objects driver at two real API servers (some minutes)
	$(ROOT) .venv/bin/python -m pytest -q drivers/objects/tests/conformance/check_contract.py

pv-sanity: $(SETUP) ## The conformance kit against two real volumes, with rsync, then restic, then a stand-in for VolSync (20 minutes; reports in out/sanity)
	$(ROOT) .venv/bin/python -m pytest -q drivers/pv/tests/conformance/check_contract.py

workload-sanity: programs ## The conformance kit against the workload driver, hot, warm and cold, on a real control plane (half an hour at most; reports in out/sanity)
	$(ROOT) .venv/bin/python -m pytest -q drivers/workload/tests/conformance_workload.py

redis-sanity: $(SETUP) ## The conformance kit against two real Redis servers (a minute)
	.venv/bin/python -m pytest -q drivers/examples/redis/tests/conformance/check_contract.py

MYSQL_SANITY := .venv/bin/graf-driver-sanity --strict --config drivers/mysql/tests/sanity.py --out out/sanity

mysql-sanity: $(SETUP) ## The conformance kit against two real MariaDB servers (whole, then a scope), then two of MySQL (minutes; reports in out/sanity)
	$(MYSQL_SANITY)/mariadb.json
	GRAF_SANITY_SCOPE=1 $(MYSQL_SANITY)/mariadb-scope.json
	GRAF_SANITY_ENGINE=mysql $(MYSQL_SANITY)/mysql.json

mysql-lts-sanity: $(SETUP) ## The same against two servers of MySQL 8.4, which come from Ubuntu (minutes)
	tools/mysql_server.sh 8.4
	GRAF_SANITY_ENGINE=mysql GRAF_SANITY_MYSQL=8.4 $(MYSQL_SANITY)/mysql-lts.json

mysql-long: $(SETUP) ## The long tests of the mysql driver, which the default suite leaves out (some minutes)
	tools/mysql_server.sh 8.4
	.venv/bin/python -m pytest -q -m mysql_long drivers/mysql/tests

check: lint types layers generated docs-check ## Lint, types, layers, generated files, links of the docs

lint: $(SETUP)
	$(UV_RUN) ruff check .
	$(UV_RUN) ruff format --check .

types: $(SETUP)
	$(UV_RUN) mypy $(addprefix -p ,$(PACKAGES))
	for folder in tools $(TYPED_TESTS); do echo "mypy $$folder"; $(UV_RUN) mypy $$folder; done

layers: $(SETUP)
	$(UV_RUN) lint-imports

generated: $(SETUP)
	uv lock --check
	$(UV_RUN) python -m graf.crd.generate --check
	$(UV_RUN) python tools/check_generated.py
	$(UV_RUN) python -m graf.sim.partitions --check
	$(UV_RUN) python -m graf_driver_sanity.reference --check

docs-check: $(SETUP)
	$(UV_RUN) python -m pytest -q tests/docs

generate: $(SETUP) ## Write all generated files again: stubs, CRDs, API reference, partition table
	$(UV_RUN) python -m graf_driver_sanity.reference --write
	tools/generate_protos.sh
	$(UV_RUN) python -m graf.crd.generate
	$(UV_RUN) python -m graf.sim.partitions --write

clean: ## Take the lab down, remove the environment and reports (the cache of programs stays)
	if [ -x $(GRAF) ]; then $(ROOT) $(GRAF) lab down --name $(LAB); fi
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis out build

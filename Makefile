# What can be done with a clone of edged. `make` lists it.

BIN := .venv/bin
# Debian's release, for what is built and tried for one: the one that this is, or else 12.
THIS_RELEASE := $(shell . /etc/os-release; [ "$$ID" = debian ] && echo "$$VERSION_ID")
RELEASE ?= $(or $(THIS_RELEASE),12)
INSTALLED := .venv/installed
# Half of a test's time is waiting for other processes: two at a time for each processor.
WORKERS ?= $(shell expr 2 \* $$(nproc))
OLDEST := build/oldest

# Compiled modules go where everything else goes that is made here.
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache

.DEFAULT_GOAL := help
.PHONY: help demo demo-rtl test test-loaded test-pythons test-oldest fuzz test-slow test-hostile test-shares rtl rtl-networks formal boards test-on test-systemd test-vm lint docs operators proto deb campaign conformance dropped networks bench bench-swap failures soak clean

help: ## list what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## see it work: a model into the drop folder, photographs over gRPC, labels back; then a detector, boxes
	@$(BIN)/python packaging/demo.py

demo-rtl: $(INSTALLED) ## the same on the gateware, simulated by Verilator (built once, for minutes): keywords, bit by bit as on the emulator
	@packaging/prerequisites --test
	@$(BIN)/python packaging/demo_rtl.py

test: lint ## everything that has to pass: lint and the tests
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

test-loaded: $(INSTALLED) ## the same beside two processes that keep the machine busy: tests hold when it is slow
	$(BIN)/python packaging/busy.py 2 $(MAKE) test

test-pythons: $(INSTALLED) ## types and the quick tests on each other Python that is there: 3.11, 3.12, 3.13
	.ci/pythons

test-oldest: $(OLDEST)/installed ## compiler and container with the oldest versions that pyproject.toml admits
	$(OLDEST)/bin/pytest tests/compiler tests/container tests/bundle -n 2 --dist worksteal

test-slow: $(INSTALLED) ## what takes too long for every change: whole classic networks
	$(BIN)/pytest -m slow --timeout 3600

rtl: $(INSTALLED) ## the gateware as Verilator simulates it, whole networks too
	@packaging/prerequisites --test
	$(BIN)/pytest firmware/tests tests/scheduler -m '' --timeout 3600

rtl-networks: $(INSTALLED) ## whole networks on the simulated gateware, every byte compared: docs/gateware-networks.md; half an hour, or ONLY="NAME …"
	@packaging/prerequisites --test
	PYTHONPATH=tests $(BIN)/python -m gateware.run docs/gateware-networks.md docs/evidence/rtl.json $(if $(ONLY),--only $(ONLY))

formal: $(INSTALLED) ## proofs about blocks of the gateware (firmware/formal); 3 minutes
	$(BIN)/python -m pip install -q -e '.[boards]'
	$(BIN)/pytest firmware/formal -p no:xdist --timeout 1800

boards: $(INSTALLED) ## what the gateware takes on each part: firmware/boards/README.md; an hour
	$(BIN)/python -m pip install -q -e '.[boards]'
	$(BIN)/python -m firmware.boards.build ecp5 --output build/boards/ecp5 --until bitstream
	$(BIN)/python -m firmware.boards.build acorn --output build/boards/acorn
	$(BIN)/python -m firmware.boards.build as02mc04 --output build/boards/as02mc04
	PYTHONPATH=tests $(BIN)/python packaging/boards.py docs/evidence/boards.json firmware/boards/README.md build/boards/*/report.json

test-hostile: $(INSTALLED) ## hostile clients of every kind against the whole of edged: docs/hostile-clients.md
	PYTHONPATH=tests:bench $(BIN)/python bench/hostile_clients.py --write docs/hostile-clients.md

test-shares: $(INSTALLED) ## the drop folder over Samba and NFS, by real servers (as root; see docs/shares.md)
	$(BIN)/pytest tests/shares -m shares --timeout 900

lint: $(INSTALLED) ## style, types, and which room may import which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(INSTALLED) ## write from the code what of docs/ and systemd/ is made from it
	$(BIN)/python -c 'from edged.config import reference; print(reference(), end="")' \
		> docs/configuration.md
	$(BIN)/python -m edged.slot._picture docs/slot.md
	$(BIN)/python packaging/board_vendors.py docs/board-vendors.md docs/npu.md
	$(BIN)/python packaging/operators.py docs/operators.md
	$(BIN)/python packaging/c_header.py docs/edged-npu.h
	$(BIN)/python -c 'from edged.notices import reference; print(reference(), end="")' \
		> docs/messages.md
	$(BIN)/python -c 'from edged.notices import catalogue; print(catalogue(), end="")' \
		> systemd/edged.catalog

proto: $(INSTALLED) ## write edged/wire/_pb from edged/wire/protos
	$(BIN)/python edged/wire/generate.py

fuzz: $(INSTALLED) ## lie to driver and emulator, an hour each or EDGED_FUZZ_SECONDS (docs/fuzzing.md)
	EDGED_FUZZ_SECONDS=$${EDGED_FUZZ_SECONDS:-3600} EDGED_FUZZ_SEED=$${EDGED_FUZZ_SEED:-$$(date +%s)} \
		$(BIN)/pytest tests/fuzz -s --timeout 0

operators: $(INSTALLED) ## how much of known networks runs on the device: docs/operators.md; EDGED_NETWORKS are folders of .onnx files
	$(BIN)/python bench/operators.py --write docs/evidence/operators.json tests/data/models tests/data/networks tests/data/quantised $(EDGED_NETWORKS)
	$(BIN)/python packaging/operators.py docs/operators.md

conformance: $(INSTALLED) ## run the clients of others, and write what came of it: docs/conformance.md
	PYTHONPATH=tests $(BIN)/python -m conformance.run docs/conformance

dropped: $(INSTALLED) ## what people drop, and what becomes of it: docs/dropped.md; 20 minutes
	PYTHONPATH=tests $(BIN)/python -m dropped.run docs/dropped.md docs/evidence/dropped.json

networks: $(INSTALLED) ## what networks of today do on the device, beside float: docs/networks.md; 10 minutes, or ONLY="NAME …"
	PYTHONPATH=tests $(BIN)/python -m networks.run docs/networks.md docs/evidence/networks.json $(if $(ONLY),--only $(ONLY))

campaign: $(INSTALLED) ## make everything fail, everywhere, and write what came of it: docs/faults.md
	PYTHONPATH=tests $(BIN)/python -m campaign.run --jobs 2 --write docs/faults.md

bench: $(INSTALLED) ## what edged costs over the same work without it: docs/performance.md; 5 minutes
	$(BIN)/python -m pip install -q -e '.[bench]'
	PYTHONPATH=tests:bench $(BIN)/python bench/serving.py --write docs/performance.md

bench-swap: $(INSTALLED) ## for how long a swap holds calls, and what edged takes when idle
	PYTHONPATH=tests:bench $(BIN)/python bench/swap.py --swaps 30
	PYTHONPATH=tests:bench $(BIN)/python bench/idle.py

failures: $(INSTALLED) ## what clients see when containers, models and the daemon end: docs/failures.md
	PYTHONPATH=tests:bench $(BIN)/python bench/failures.py --write docs/failures.md

soak: $(INSTALLED) ## ten minutes of swaps under load, and a plot of what they take
	$(BIN)/python -m pip install -q -e '.[bench]'
	PYTHONPATH=tests:bench $(BIN)/python bench/swap.py --minutes 10 --output build/soak

deb: $(if $(filter $(RELEASE),$(THIS_RELEASE)),$(INSTALLED)) ## build/edged_VERSION_amd64.deb, for this Debian or RELEASE=12, 13 (another one as root)
ifeq ($(RELEASE),$(THIS_RELEASE))
	@PIP=$(CURDIR)/$(BIN)/python packaging/build-deb
else
	@PYTHONPATH=tests $(or $(wildcard $(BIN)/python),python3) packaging/in_debian.py $(RELEASE) packaging/build-deb
endif

test-on: ## `make test` in a Debian of its own, RELEASE=12 or 13 (as root); WHAT="make demo" for something else
	@PYTHONPATH=tests $(or $(wildcard $(BIN)/python),python3) packaging/in_debian.py $(RELEASE) $(or $(WHAT),make test)

test-systemd: $(INSTALLED) deb ## that package, in a Debian of RELEASE that systemd boots (as root, 5 minutes; see docs/systemd.md)
	$(BIN)/pytest tests/systemd -m systemd -p no:cacheprovider --timeout 1800 --debian $(RELEASE) $(SYSTEMD)

test-vm: deb ## that package in a PC in QEMU that has the card, power cuts and all (25 minutes; see docs/vm.md)
	$(BIN)/pytest tests/vm -m vm -p no:cacheprovider --timeout 3600 $(VM)

clean: ## remove the virtual environment and what tools leave behind
	rm -rf .venv build dist *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find edged firmware tests packaging bench -name __pycache__ -prune -exec rm -rf {} +

# Once, and again when what it is made from changes. The stamp comes last: what was interrupted
# is made anew.
$(INSTALLED): pyproject.toml packaging/prerequisites
	@packaging/prerequisites
	"$$(packaging/prerequisites --python)" -m venv --clear .venv
	$(BIN)/python -m pip install -e '.[test,firmware]'
	@touch $@

# The same with the oldest versions of all that edged depends on, and what these tests need.
$(OLDEST)/installed: pyproject.toml packaging/bounds.py $(INSTALLED)
	rm -rf $(OLDEST)
	mkdir -p build
	python3.11 -m venv $(OLDEST)
	$(BIN)/python packaging/bounds.py oldest >$(OLDEST)/pins
	$(OLDEST)/bin/python -m pip install -c $(OLDEST)/pins -e . hypothesis pytest pytest-asyncio \
		pytest-timeout pytest-xdist trustme
	@touch $@

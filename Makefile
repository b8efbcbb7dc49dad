# make demo           set up all that is needed, build the default image, run the examples
# make test           set up all that is needed, then every check, and nearly each promise shown once
# make test-standin   the tests of guests under the stand-ins for xhyve and vfkit, and of the stand-ins
# make test-long      the tests of guests that take longest, for which make test has no time; CI runs them
# make test-thorough  all other tests: each promise in breadth
# make thorough-unit  the part of it that needs no guest
# make unit           the part of make test that needs no guest
# make test-images    the tests of guests on disks as they come from elsewhere; each is built first, which needs root
# make test-aarch64   the tests of guests on debian12 for aarch64, and those of tiny for it that make test leaves out
# make test-mac       what a Mac can test: unit tests, and the examples under each of MAC_HYPERVISORS, on images that were
#                     built on Linux and copied to MAC_IMAGES; no Mac has run it yet
# make fuzz           look for inputs that break what reads them, for FUZZ_SECONDS (300)
# make soak           tests of guests, while processes are killed at random, for SOAK_SECONDS (600)
# make docs           build the docs' site into site/
# make fix            mend what ruff can mend, and format
# make test-oldest    unit tests and some guests with the oldest versions that pyproject.toml allows
# make test-versions  the same with the newest versions, on each CPython that is here
# make wheel          build what would be published, check it, and run a guest with it
# make seconds        every test, and write down what each file takes: see tests/seconds.json

VENV := .venv
FUZZ_SECONDS := 300
SOAK_SECONDS := 600
BIN := $(VENV)/bin
# labgrid is a pytest plugin, which would be loaded in every run of the tests.
BENCH := .venv-bench
PYTHON ?= python3
# What has to happen within seconds is not tested beside much else.
DISKS := cloud installed uefi subvolumes labelled
BY_THE_CLOCK := tests/guests/test_deaths.py
SPREAD := -n 2 --dist loadfile --no-loadscope-reorder
# Unit tests mostly wait: for processes to end, for limits to pass.
MANY := -n 5

MAC_HYPERVISORS ?= vfkit hyperkit xhyve qemu
MAC_IMAGES ?= $(HOME)/guests/images
# The image of each is built in a guest, with Debian's packages: ten minutes without acceleration.
NOT_IN_THE_DEMO := etcd keepalived nfs postgresql raid redis_many_workers router_firewall two_web_servers
# These change a running guest's disks, or build an image: neither is possible under xhyve and vfkit, or on a Mac.
NOT_ON_A_MAC := ab_update filesystem_power_cut forgotten_fsync own_image sqlite $(NOT_IN_THE_DEMO)

# Without byte code each worker rewrites the assertions of all tests' modules again, and that takes 3 s of CPU.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: demo test test-aarch64 test-standin test-long test-mac test-thorough thorough-unit checks images unit lint docs fix bench test-images test-oldest test-versions wheel seconds packages clean fuzz soak

demo: $(VENV)/.done
	$(BIN)/pytest-xhyve build debian12
	$(BIN)/pytest conftest_examples $(NOT_IN_THE_DEMO:%=--ignore=conftest_examples/%) --xhyve-image=debian12 -v

# Beside the images, which wait for the disk and for the network, there is time for what needs no guest. The tests
# that build images need the network too: a worker that has had a test of the stand-in for xhyve has none any more.
test: $(VENV)/.done
	$(MAKE) -j2 images checks
	$(BIN)/pytest tests/unit tests/images -m "not thorough" $(SPREAD) $(MANY) --durations=5 $(REPORT:%=--junitxml=%-unit.xml)
	$(BIN)/pytest tests/guests -m "not (thorough or standin or long)" $(SPREAD) $(BY_THE_CLOCK:%=--ignore=%) --durations=15 $(REPORT:%=--junitxml=%-guests.xml)
	$(BIN)/pytest $(BY_THE_CLOCK) -m "not thorough" -n 2

test-long: images
	$(BIN)/pytest tests/guests -m "long and not (thorough or standin)" $(SPREAD) --durations=10 $(REPORT:%=--junitxml=%-long.xml)

test-standin: images
	EXAMPLES_FACTOR=1 $(BIN)/pytest tests/guests tests/standin -m "standin and not thorough" $(SPREAD) $(BY_THE_CLOCK:%=--ignore=%) --durations=10 $(REPORT:%=--junitxml=%-standin.xml)

test-thorough: images thorough-unit
	$(BIN)/pytest tests/images -m thorough $(SPREAD)
	$(BIN)/pytest tests/guests -m thorough $(SPREAD) $(BY_THE_CLOCK:%=--ignore=%) --durations=15 $(REPORT:%=--junitxml=%-thorough.xml)
	$(BIN)/pytest $(BY_THE_CLOCK) -m thorough -n 2

thorough-unit: $(VENV)/.done
	EXAMPLES_FACTOR=1 $(BIN)/pytest tests/unit -m "thorough or fuzz" $(SPREAD) $(MANY)

# Two disks at a time.
test-images: images
	sh tools/install-packages disks
	$(MAKE) -j2 $(DISKS:%=test-disk-%)

test-disk-%: $(VENV)/.done
	disk=$$(PYTHONPATH=.:tests $(BIN)/python -m disks $*) && \
	$(BIN)/pytest tests/guests/test_guest.py tests/disks --xhyve-image=$$disk

test-aarch64: $(VENV)/.done
	$(BIN)/pytest-xhyve build tiny-aarch64 debian12-aarch64
	$(BIN)/pytest tests/guests/test_aarch64.py
	$(BIN)/pytest tests/guests/test_guest.py --xhyve-image=debian12-aarch64 $(SPREAD)

test-mac: $(VENV)/.done
	-$(BIN)/pytest-xhyve doctor
	$(BIN)/pytest tests/unit/doctor tests/unit/formats tests/unit/host tests/unit/hypervisors tests/unit/model -m "not thorough"
	$(MAKE) $(MAC_HYPERVISORS:%=test-mac-%)

test-mac-%: $(VENV)/.done
	$(BIN)/pytest conftest_examples/first_test --xhyve-image=$(MAC_IMAGES)/tiny.yaml --xhyve-hypervisor=$* --xhyve-artifacts=build/mac -v
	$(BIN)/pytest conftest_examples $(NOT_ON_A_MAC:%=--ignore=conftest_examples/%) --xhyve-image=$(MAC_IMAGES)/debian12.yaml --xhyve-hypervisor=$* --xhyve-artifacts=build/mac -v

checks: lint docs

images: $(VENV)/.done
	$(BIN)/pytest-xhyve build debian12 tiny tiny-partitioned tiny-aarch64

unit: $(VENV)/.done
	$(BIN)/pytest tests/unit -m "not thorough" $(SPREAD) $(MANY) & tests=$$!; $(MAKE) checks; checks=$$?; wait $$tests && exit $$checks

lint: $(VENV)/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

fuzz: $(VENV)/.done
	tools/fuzz $(FUZZ_SECONDS)

soak: images
	PYTHONPATH=.:tests $(BIN)/python -m soak $(SOAK_SECONDS)

docs: site/.done

# The reference comes from the code. A folder is newer, too, once a file of it is gone.
site/.done: $(VENV)/.done $(shell find docs/. pytest_xhyve *.md ! -path '*/__pycache__*')
	$(BIN)/python -m sphinx --quiet --fail-on-warning --fresh-env --doctree-dir build/docs docs site
	touch $@

fix: $(VENV)/.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH)/.done
	$(BENCH)/bin/pytest-xhyve build debian12 tiny
	$(BENCH)/bin/python -m benchmarks.cold
	$(BENCH)/bin/python -m benchmarks.warm
	$(BENCH)/bin/python -m benchmarks.own
	$(BENCH)/bin/python -m benchmarks.copies
	$(BENCH)/bin/python -m benchmarks.admission
	$(BENCH)/bin/python -m benchmarks.crowd
	$(BENCH)/bin/python -m benchmarks.lan
	$(BENCH)/bin/python -m benchmarks.plot
	$(BENCH)/bin/python -m benchmarks.network
	$(BENCH)/bin/python -m benchmarks.faults
	$(BENCH)/bin/python -m benchmarks.failures
	$(BENCH)/bin/python -m benchmarks.processors

test-oldest: images
	$(BIN)/nox --session oldest

test-versions: images
	$(BIN)/nox --session newest

wheel: $(VENV)/.done
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv --clear build/wheel
	build/wheel/bin/pip install --quiet dist/*.whl
	build/wheel/bin/pytest-xhyve run tiny -- uname -r

seconds:
	$(MAKE) test test-long test-standin test-thorough REPORT=build/tests
	tools/record-seconds build/tests-unit.xml build/tests-guests.xml build/tests-long.xml build/tests-standin.xml build/tests-thorough.xml

packages:
	sh tools/install-packages

$(VENV)/.done: pyproject.toml tools/install-packages
	sh tools/install-packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev,docs]'
	touch $@

$(BENCH)/.done: pyproject.toml tools/install-packages
	sh tools/install-packages
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet --upgrade pip
	$(BENCH)/bin/pip install --quiet --editable '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) $(BENCH) .nox dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis site

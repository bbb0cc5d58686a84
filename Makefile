# SPDX-License-Identifier: LGPL-2.1-or-later
# A front door to Meson, the lab and the tests; each target does its own set-up.
CONFIGURED := build/native/configured
# What was configured last stays, until another is asked for.
PREFIX ?= $(or $(shell sed -n 's/^prefix //p' $(CONFIGURED) 2>/dev/null),/usr/local)
SYSCONFDIR ?= $(or $(shell sed -n 's/^sysconfdir //p' $(CONFIGURED) 2>/dev/null),/etc)
DESTDIR ?=

.PHONY: help configure build install uninstall lint test test-full bench demo clean

help:
	@echo 'sudo make demo        two simulated hosts, a container with Redis, one migration (the first time minutes)'
	@echo 'sudo make test        all tests; test-full adds what takes long, virtual machines among it'
	@echo 'sudo make bench       phaul against its peers, with ratios, on this machine; BENCH=quick for a shorter one'
	@echo 'make build            compile into build/native; as root, missing packages are installed first'
	@echo 'sudo make install     to PREFIX ($(PREFIX)), configuration to SYSCONFDIR ($(SYSCONFDIR)); DESTDIR is obeyed'
	@echo 'sudo make uninstall   remove what install brought; configuration and state stay'
	@echo 'make lint             what can be said about the sources without running them'
	@echo 'make clean            remove build/'

configure:
	@tools/setup build
	@tools/configure '$(PREFIX)' '$(SYSCONFDIR)'

build: configure
	@ninja -C build/native --quiet

install: build
	@DESTDIR='$(abspath $(DESTDIR))' tools/install build/native

uninstall:
	@[ -e build/native/installed.json ] || $(MAKE) --no-print-directory configure
	@DESTDIR='$(abspath $(DESTDIR))' tools/uninstall build/native

lint:
	@tools/setup build lint
	@tools/lint

demo:
	@tools/setup lab
	@demo/demo

test:
	@tools/setup build test lab vm
	@tests/run

test-full:
	@tools/setup build test lab vm
	@tests/run --full

bench:
	@tools/setup build lab
	@bench/bench $(if $(filter quick,$(BENCH)),--quick)

clean:
	rm -rf build

# SPDX-License-Identifier: LGPL-2.1-or-later
# A front door to Meson, the lab and the tests; each target does its own set-up.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=

.PHONY: build install uninstall lint test test-full demo clean

build:
	@tools/setup build
	@[ -d build/native ] || meson setup build/native --prefix='$(PREFIX)' --sysconfdir='$(SYSCONFDIR)' \
		--localstatedir=/var >/dev/null
	@meson configure build/native --prefix='$(PREFIX)' --sysconfdir='$(SYSCONFDIR)' >/dev/null
	@ninja -C build/native --quiet || ninja -C build/native

install: build
	@DESTDIR='$(DESTDIR)' meson install -C build/native --no-rebuild --quiet

uninstall:
	@DESTDIR='$(DESTDIR)' tools/uninstall build/native

lint:
	@tools/setup build lint
	@tools/lint

demo:
	@tools/setup lab
	@demo/demo

test:
	@tools/setup build test lab
	@tests/run

test-full:
	@tools/setup build test lab
	@tests/run --full

clean:
	rm -rf build

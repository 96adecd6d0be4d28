PREFIX ?= /usr/local
BIN = $(abspath $(or $(CARGO_TARGET_DIR),target)/release/vmdisk)
SHARE = target/share
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
LINUX = $(shell uname -m)-unknown-linux-gnu
DEMO = $(abspath $(or $(CARGO_TARGET_DIR),target)/demo)
# A public key of which nobody has the other half.
NOBODYS_KEY = ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f demo
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo nextest run || echo test)

.PHONY: demo test go-test boot-test check lint check-macos matrix grow-test bench fuzz release pages install \
  install-test static deb deb-test formula pictures

demo: release ## Create a boot2docker disk, grow it, look at it, check it: it stays in target/demo
	@set -eu; rm -rf "$(DEMO)"; mkdir -p "$(DEMO)"; cd "$(DEMO)"; echo '$(NOBODYS_KEY)' > id.pub; \
	run() { echo "\$$ vmdisk $$*"; "$(BIN)" "$$@"; }; \
	run create m.qcow2 --size 20G --ssh-key id.pub; \
	run resize m.qcow2 --size 40G; \
	run info m.qcow2; \
	run check m.qcow2; \
	echo "It is $(DEMO)/m.qcow2"

test: export PROPTEST_RNG_SEED ?= 1
test: lint ## Everything; PROPTEST_RNG_SEED draws other cases, as `matrix` does
	@integration/test-tools.sh
	cargo $(NEXTEST) --locked --no-fail-fast
	cargo test --locked --doc
	@$(MAKE) go-test boot-test
	@TARGETS=aarch64-apple-darwin integration/packaging/check-macos.sh # One of the two that `check-macos` has.

check: test

go-test: export VMDISK = $(abspath $(or $(CARGO_TARGET_DIR),target)/debug/vmdisk)
go-test: export GOTOOLCHAIN = local
go-test: export GOPROXY = off
go-test: ## The Go client, and the disk of a driver, against the program
	cargo test --quiet --locked --no-run --test it # The program as the other tests have it.
	@unformatted=$$(gofmt -l integration/go integration/docker-machine); [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted" >&2; exit 1; }
	for module in go docker-machine; do (cd integration/$$module && go vet ./... && \
	  go test -count=1 $$(command -v gcc >/dev/null && echo -race) ./...) || exit 1; done

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	RUSTFLAGS="--cfg fuzzing -D warnings" cargo check --quiet --locked --no-default-features \
	  --manifest-path integration/fuzz/Cargo.toml

boot-test: ## Guests that boot on its disks, format them, live in them and find them grown
	cargo build --quiet --locked --bin vmdisk
	cargo run --quiet --locked --manifest-path integration/boot/Cargo.toml -- \
	  $(abspath $(or $(CARGO_TARGET_DIR),target))/debug/vmdisk $(abspath $(or $(CARGO_TARGET_DIR),target))/boot $(BOOT)

check-macos: ## The types of everything for macOS on both processors, from Linux too
	integration/packaging/check-macos.sh

matrix: ## The whole matrix against qemu-img, not the sample that `test` runs
	@integration/test-tools.sh
	VMDISK_MATRIX=full cargo $(NEXTEST) --locked --release --test it

grow-test: ## All of what `test` samples of growing what is inside: hundreds of disks, formats and stops
	@integration/test-tools.sh
	VMDISK_MATRIX=full cargo $(NEXTEST) --locked --release --test it -- growth:: ext4:: journal:: partitions::

bench: release ## Against qemu-img and the floor, in one run
	@integration/test-tools.sh
	cargo build --release --locked --manifest-path integration/bench/Cargo.toml
	cargo run --release --locked --manifest-path integration/bench/Cargo.toml -- --vmdisk $(BIN) $(BENCH)

pictures: release ## Draw the pictures of README.md anew, from a session of the program as built
	@integration/test-tools.sh
	integration/pictures/make.sh $(BIN)

fuzz: FUZZ ?= operations
fuzz: SECONDS ?= 60
fuzz: HOST = $(shell rustc -vV | sed -n 's/^host: //p')
fuzz: export RUSTFLAGS = --cfg fuzzing -Cpasses=sancov-module \
  -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
fuzz: ## FUZZ=operations, damage, open, change, check, repair, read, map, payload or protocol, for SECONDS
	cd integration/fuzz && cargo build --release --locked --target $(HOST) --bin $(FUZZ)
	mkdir -p integration/fuzz/target/$(FUZZ)
	n=0; while read -r run; do n=$$((n + 1)); \
	  echo "$$run" | base64 -d > integration/fuzz/target/$(FUZZ)/known-$$n; done < tests/data/fuzz/$(FUZZ).txt
	cd integration/fuzz/target && $(HOST)/release/$(FUZZ) $(FUZZ) -max_total_time=$(SECONDS) \
	  -max_len=1024 -rss_limit_mb=512 -timeout=10

release:
	cargo build --release --locked

pages: release
	integration/packaging/pages.sh $(BIN) $(SHARE)

install: pages ## The program, its manual pages and completions, below DESTDIR and PREFIX
	install -d "$(DESTDIR)$(PREFIX)/bin"
	install -m 755 $(BIN) "$(DESTDIR)$(PREFIX)/bin/vmdisk"
	find $(SHARE) -type f | while read -r file; do \
	  to="$(DESTDIR)$(PREFIX)/share/$${file#$(SHARE)/}"; \
	  install -d "$$(dirname "$$to")" && install -m 644 "$$file" "$$to" || exit 1; done

static: ## A program for any Linux of this architecture, without libraries
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target $(LINUX)
	@integration/packaging/try.sh static "$(or $(CARGO_TARGET_DIR),target)/$(LINUX)/release/vmdisk"

deb: pages ## A Debian package, in target/debian
	@cargo deb --version >/dev/null 2>&1 || cargo install --locked cargo-deb
	cargo deb --locked --no-build --no-strip

# What is installed is tried where it lies: everything is there, and the program makes a sound disk.
install-test: pages
	rm -rf target/installed
	$(MAKE) install DESTDIR="$(CURDIR)/target/installed" PREFIX=/usr
	integration/packaging/try.sh tree target/installed/usr

deb-test: deb
	rm -rf target/installed
	dpkg-deb -x "$$(ls -t $(or $(CARGO_TARGET_DIR),target)/debian/vmdisk_*.deb | head -n 1)" target/installed
	integration/packaging/try.sh tree target/installed/usr

formula: ## A Homebrew formula and its source archive of this commit: URL= where that will be
	@[ -n "$(URL)" ] || { echo "say where the archive will be: make formula URL=..." >&2; exit 1; }
	mkdir -p target
	git archive --format=tar.gz --prefix=vmdisk-$(VERSION)/ -o target/vmdisk-$(VERSION).tar.gz HEAD
	sum=$$( (sha256sum target/vmdisk-$(VERSION).tar.gz || shasum -a 256 target/vmdisk-$(VERSION).tar.gz) \
	  2>/dev/null | cut -d ' ' -f 1); sed -e 's|@URL@|$(URL)|' -e 's|@VERSION@|$(VERSION)|' \
	  -e "s|@SHA256@|$$sum|" -e '/^#/d' integration/packaging/vmdisk.rb > target/vmdisk.rb

PREFIX ?= /usr/local
BIN = $(abspath $(or $(CARGO_TARGET_DIR),target)/release/vmdisk)
VERBS = create ensure resize rebase amend convert info map measure chain compare hash guest inspect check \
  salvage snapshot bitmap commit flatten compact clone capabilities rpc schema completions man
ACTIONS = $(addprefix snapshot-,list show create apply delete) \
  $(addprefix bitmap-,list add remove clear enable disable merge)
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo nextest run || echo test)

.PHONY: demo test go-test boot-test check lint check-macos matrix grow-test bench fuzz install release

demo: release ## Create a boot2docker disk, grow it, look at it
	@set -eu; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	ssh-keygen -q -t ed25519 -N '' -C demo -f "$$folder/id"; \
	run() { echo "\$$ vmdisk $$*"; $(BIN) "$$@"; }; cd "$$folder"; \
	run create m.qcow2 --size 20G --ssh-key id.pub; \
	run resize m.qcow2 --size 40G; \
	run info m.qcow2

test: export PROPTEST_RNG_SEED ?= 1
test: lint ## Everything; PROPTEST_RNG_SEED draws other cases, as `matrix` does
	@integration/test-tools.sh
	cargo $(NEXTEST) --locked --no-fail-fast
	cargo test --locked --doc
	@$(MAKE) go-test boot-test

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

check-macos: ## The types of everything for macOS, from Linux too
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

install: release
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/vmdisk
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	$(BIN) man > $(DESTDIR)$(PREFIX)/share/man/man1/vmdisk.1
	for verb in $(VERBS); do \
	  $(BIN) man $$verb > $(DESTDIR)$(PREFIX)/share/man/man1/vmdisk-$$verb.1 || exit 1; done
	for action in $(ACTIONS); do $(BIN) man $$(echo $$action | tr - ' ') \
	  > $(DESTDIR)$(PREFIX)/share/man/man1/vmdisk-$$action.1 || exit 1; done
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
	  $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(BIN) completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/vmdisk
	$(BIN) completions zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_vmdisk
	$(BIN) completions fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/vmdisk.fish

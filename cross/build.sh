#!/usr/bin/env bash
# Builds the static binary for one target: cross/build.sh x86_64|aarch64|armv7 [more cargo arguments]
# The binary is left at build/bin/copepod-<target>, the initramfs' init at build/bin/stage1-<target>.
#
# The standard library comes from rustup where `rustup target add` works, otherwise it is compiled with -Zbuild-std from
# Debian's matched rustc-web and rust-web-src. zig is the C compiler and the linker in both cases.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
x86_64) triple=x86_64-unknown-linux-musl ;;
aarch64) triple=aarch64-unknown-linux-musl ;;
armv7) triple=armv7-unknown-linux-musleabihf ;;
*) echo "usage: cross/build.sh x86_64|aarch64|armv7 [cargo arguments]" >&2; exit 2 ;;
esac
target=$1
shift

# Called from a program that cargo runs, this finds variables that would make build scripts run again.
for variable in $(compgen -e | grep -E '^(CARGO_(PKG|MANIFEST|CRATE|BIN|PRIMARY)_?|OUT_DIR$)' || true); do
    unset "$variable"
done

venv=$PWD/.venv
[ -x "$venv/bin/cargo-zigbuild" ] || { echo "cross/build.sh: .venv/bin/cargo-zigbuild is missing: run 'make setup'" >&2; exit 1; }
# Only the folder with zig and cargo-zigbuild: a venv's python must not shadow the system's for build scripts.
export PATH="$venv/bin:$PATH"

# cross/setup.sh has added the target if that is possible at all.
rustup_has_target() {
    command -v rustup >/dev/null && rustup target list --installed | grep -qx "$triple"
}

# libcontainer's pinned source with our patch, as a path override: the lock file stays as it is.
patched_libcontainer() {
    local version source out=build/libcontainer
    version=$(sed -n '/^name = "libcontainer"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
    local stamp="$version $(sha256sum <cross/libcontainer-32bit.patch)"
    [ "$(cat $out.stamp 2>/dev/null)" = "$stamp" ] && return 0
    cargo fetch --locked --quiet
    source=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/libcontainer-"$version" | head -n 1)
    rm -rf $out
    cp -r "$source" $out
    rm -f $out/.cargo-ok
    patch --quiet -p1 -d $out <cross/libcontainer-32bit.patch
    echo "$stamp" >$out.stamp
}

# Other targets may be built at the same time.
mkdir -p build
exec 9>build/libcontainer.lock
flock 9
patched_libcontainer
exec 9>&-
args=(--release --locked --target "$triple" --config "paths=[\"$PWD/build/libcontainer\"]")
args+=(-p copepod -p init --bin copepod --bin stage1 "$@")

if rustup_has_target; then
    echo "cross: $triple with the standard library of $(rustc --version)"
    export CARGO_TARGET_DIR=$PWD/target
    cargo-zigbuild zigbuild "${args[@]}"
else
    for tool in /usr/bin/rustc /usr/bin/cargo; do
        [ -x "$tool" ] || { echo "cross: no standard library for $triple: rustup cannot add it and Debian's $tool is missing: run 'make setup'" >&2; exit 1; }
    done
    echo "cross: $triple with a standard library compiled by $(/usr/bin/rustc --version)"
    export CARGO_TARGET_DIR=$PWD/target/debian RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc CARGO=/usr/bin/cargo
    export RUSTFLAGS="-C link-self-contained=no"
    /usr/bin/env -u RUSTUP_TOOLCHAIN cargo-zigbuild zigbuild "${args[@]}" -Zbuild-std=std,panic_abort
fi

mkdir -p build/bin
cp --remove-destination "$CARGO_TARGET_DIR/$triple/release/copepod" "build/bin/copepod-$target"
cp --remove-destination "$CARGO_TARGET_DIR/$triple/release/stage1" "build/bin/stage1-$target"

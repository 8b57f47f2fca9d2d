#!/usr/bin/env bash
# Installs what building and testing need and says what it does: Debian packages (from the lists named as arguments), the
# Python tools in .venv, and a standard library for each target. Does nothing where all is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

missing_debian() {
    local package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || echo "$package"
    done
}

install_debian() {
    local missing
    missing=$(missing_debian "$@")
    [ -n "$missing" ] || return 0
    echo "setup: installing Debian packages:" $missing
    as_root apt-get -qq update || echo "setup: apt-get update reported errors; going on with the package lists at hand" >&2
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing >/dev/null
}

lists=(cross/debian-packages.txt "$@")
# shellcheck disable=SC2046
install_debian $(cat "${lists[@]}" | grep -v '^#')

if ! cmp -s cross/requirements.txt .venv/requirements.txt; then
    echo "setup: Python tools into .venv:" $(grep -v '^#' cross/requirements.txt)
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r cross/requirements.txt
    cp cross/requirements.txt .venv/requirements.txt
fi

# rustup's clippy and rustfmt may be absent in a minimal profile.
if command -v rustup >/dev/null; then
    for component in clippy rustfmt; do
        cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
    done
fi

toolchain=$(cat cross/debian-toolchain.txt)
for triple in x86_64-unknown-linux-musl aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf; do
    if command -v rustup >/dev/null; then
        rustup target list --installed | grep -qx "$triple" && continue
        # Where Debian's compiler was needed before, rustup is not asked again.
        # shellcheck disable=SC2086
        [ -n "$(missing_debian $toolchain)" ] || continue
        echo "setup: rustup target add $triple"
        timeout 120 rustup target add "$triple" >/dev/null 2>&1 && continue
        echo "setup: rustup has no $triple here; its standard library will be compiled with Debian's rustc"
    fi
    # shellcheck disable=SC2086
    install_debian $toolchain
done

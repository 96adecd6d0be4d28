#!/bin/sh
# Type-checks the whole crate and its tests for macOS, warnings being errors, from any system; with
# clippy where the compiler has one. That needs a standard library for Apple's targets, or the source
# of the compiler's very version to check one from: rustup's targets if they are installed, else
# Debian's rustc-web and rust-web-src, which are unpacked below target/. Where neither is to be had,
# one line says that it was skipped; with CHECK_MACOS_REQUIRED=1 that is a failure.
set -eu
cd "$(dirname "$0")/../.."
targets=${TARGETS:-"aarch64-apple-darwin x86_64-apple-darwin"}
place=$(pwd)/${CARGO_TARGET_DIR:-target}/check-macos
case ${CARGO_TARGET_DIR:-} in /*) place=$CARGO_TARGET_DIR/check-macos ;; esac

skip() {
    echo "check-macos: SKIPPED: $1"
    if [ "${CHECK_MACOS_REQUIRED:-0}" = 1 ]; then exit 1; else exit 0; fi
}

arguments=
has_targets=yes
for target in $targets; do
    arguments="$arguments --target $target"
    [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] || has_targets=no
done

if [ $has_targets = yes ]; then
    # shellcheck disable=SC2086 # One word a target.
    cargo clippy --locked --all-targets --target-dir "$place/build" $arguments -- -D warnings
    echo "check-macos: passed clippy for $targets"
    exit 0
fi

# Debian's compiler, its libraries and their source, all of one version, in $place/root.
unpack() {
    command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1 ||
        skip "this toolchain has no standard library for macOS, and there is no apt-get to fetch one"
    candidate() { apt-cache policy rust-web-src | sed -n 's/^ *Candidate: \([0-9].*\)/\1/p'; }
    version=$(candidate)
    if [ -z "$version" ]; then
        if [ "$(id -u)" = 0 ]; then apt-get update -qq || true; fi
        version=$(candidate)
    fi
    [ -n "$version" ] || skip "there is no package rust-web-src"
    depends() { apt-cache depends "$1=$version" | sed -n "s/^ *Depends: \($2.*\)/\1/p" | head -n 1; }
    library=$(depends libstd-rust-web-dev libstd-rust-web-)
    llvm=$(depends "$library" libllvm)
    rm -rf "$place/root" "$place/debs"
    mkdir -p "$place/root" "$place/debs"
    (cd "$place/debs" && apt-get download -qq -o APT::Sandbox::User=root "rustc-web=$version" "rust-web-src=$version" \
        "rust-web-clippy=$version" "libstd-rust-web-dev=$version" "$library=$version" "$llvm") ||
        skip "the packages of rustc-web $version could not be fetched"
    for package in "$place"/debs/*.deb; do dpkg -x "$package" "$place/root"; done
    rm -rf "$place/debs"
    libraries=$place/root/usr/lib/$(uname -m)-linux-gnu
    for tool in clippy-driver rustc; do
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$libraries" "$place/root/usr/bin/$tool" \
            >"$place/$tool"
        chmod +x "$place/$tool"
    done
}

[ -x "$place/rustc" ] && "$place/rustc" -V >/dev/null 2>&1 || unpack
[ -e "$place/root/usr/lib/rustlib/src/rust/library/Cargo.toml" ] || skip "rust-web-src has another layout"

# Cargo compiles the standard library to check what is above it: in the fastest way.
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=false

# A dependency assembles a file for whatever builds it. Nothing is linked here: an empty one will do.
printf '#!/bin/sh\nwhile [ $# -gt 1 ]; do [ "$1" != -o ] || : >"$2"; shift; done\n' >"$place/cc"
chmod +x "$place/cc"
for target in $targets; do
    name=$(echo "$target" | tr - _)
    export "CC_$name=$place/cc" "AR_$name=true"
done

# As cargo-clippy does it. Only nightly compilers, and those that are told so, take a source for it.
# shellcheck disable=SC2086 # One word a target.
RUSTC=$place/rustc RUSTC_WORKSPACE_WRAPPER=$place/clippy-driver RUSTC_BOOTSTRAP=1 RUSTFLAGS="-D warnings" \
    cargo check --quiet --locked --all-targets --target-dir "$place/build" \
    -Z build-std=std,panic_abort,test $arguments
echo "check-macos: passed clippy for $targets"

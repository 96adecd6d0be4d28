#!/bin/sh
# Installs what the tests need beside Rust, where the system has apt, dnf or brew; otherwise says
# what is missing.
set -eu

missing=
for tool in qemu-img qemu-io qemu-nbd ssh-keygen tar jq python3 go; do
    command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
if [ "$(uname -s)" = Linux ]; then
    for tool in mke2fs mkfs.xfs mkswap sfdisk sgdisk setpriv strace unshare flock; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
    done
fi
[ -n "$missing" ] || exit 0

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
if command -v apt-get >/dev/null 2>&1; then
    as_root apt-get update -qq
    as_root apt-get install -y -qq --no-install-recommends \
        qemu-utils openssh-client tar jq python3 e2fsprogs xfsprogs btrfs-progs util-linux fdisk gdisk \
        strace golang-go >/dev/null
elif command -v dnf >/dev/null 2>&1; then
    as_root dnf install -y -q qemu-img openssh-clients tar jq python3 e2fsprogs xfsprogs \
        util-linux gdisk strace golang
elif command -v brew >/dev/null 2>&1; then
    brew install --quiet qemu jq python3 go
else
    echo "the tests need$missing: please install them" >&2
    exit 1
fi

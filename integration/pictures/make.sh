#!/bin/sh
# Draws the pictures of README.md with the program $1: session.svg, a terminal in which session.txt was
# run, and map.svg, a map of an overlay that has everything that a map can show. What a guest would
# write is written by mke2fs and QEMU's tools. The same program draws the same pictures.
set -eu
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
here=$(cd "$(dirname "$0")" && pwd)
place=$here/../../target/pictures
PATH=$(dirname "$program"):$PATH:/usr/sbin:/sbin
export PATH

if ! "$place/venv/bin/python" -c 'import rich' 2>/dev/null; then
    python3 -m venv "$place/venv"
    "$place/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
fi
python=$(cd "$place/venv/bin" && pwd)/python
rm -rf "$place/run"
mkdir -p "$place/run"
cd "$place/run"
uuid() { echo "00000000-0000-4000-8000-00000000000$1"; }
ssh-keygen -q -t ed25519 -N '' -C demo -f id

# A disk whose guest has stored 850 MiB and deleted 700 of them.
mkdir files
yes 'what a guest stores' | head -c 60M >files/a
yes 'what it deletes again' | head -c 700M >files/deleted
yes 'what a guest stores' | head -c 90M >files/z
truncate -s 2G lived-in.raw
printf '%s\n' 'label: gpt' "label-id: $(uuid 1)" "start=2048, type=linux, uuid=$(uuid 2)" |
    sfdisk -q --no-tell-kernel --wipe never lived-in.raw
mke2fs -q -F -t ext4 -L boot2docker-data -U "$(uuid 3)" -E "offset=1048576,hash_seed=$(uuid 4)" \
    -d files lived-in.raw 2095104k
debugfs -w -R 'rm deleted' 'lived-in.raw?offset=1048576' 2>/dev/null
"$python" "$here/session.py" "$here/session.txt" "$here/session.svg"

# A base that is compressed, and above it data, zeros, compressed clusters and what was laid out.
rm files/deleted
truncate -s 640M base.raw
mke2fs -q -F -t ext4 -U "$(uuid 5)" -E "hash_seed=$(uuid 6)" -d files base.raw
vmdisk convert base.raw base.qcow2 --compress zstd >log
vmdisk create machine.qcow2 --backing base.qcow2 --size 1G --cluster-size 1M >>log
{
    echo 'write -q -P 1 48M 72M'
    echo 'write -q -P 2 208M 40M'
    echo 'write -q -z 320M 96M'
    echo 'write -q -P 3 416M 24M'
    for at in $(seq 512 591); do echo "write -q -c -P 4 ${at}M 1M"; done
    echo 'write -q -P 5 656M 64M'
} | qemu-io machine.qcow2 >>log
vmdisk resize machine.qcow2 --size 1280M --preallocation metadata >>log
vmdisk check machine.qcow2 >>log
vmdisk map machine.qcow2 --svg "$here/map.svg" >>log
rm -rf "$place/run"

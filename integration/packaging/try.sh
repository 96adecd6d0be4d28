#!/bin/sh
# Tries what was built to be given away. `tree FOLDER`: a program with its pages and completions, as
# installed below a prefix; `static PROGRAM`: a program that needs no library.
set -eu
fail() { echo "$1" >&2; exit 1; }
kind=$1
place=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

sound_disk() {
    (cd "$folder" && "$1" create m.qcow2 --size 1GiB --guest none && "$1" check m.qcow2) >/dev/null
}

case $kind in
tree)
    program=$place/bin/vmdisk
    pages=$(find "$place/share/man/man1" -name 'vmdisk*.1*' | wc -l)
    verbs=$("$program" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' | grep -vc '^help$')
    [ "$pages" -gt "$verbs" ] || fail "$pages manual pages for $verbs verbs"
    for name in vmdisk _vmdisk vmdisk.fish; do
        [ -n "$(find "$place/share" -path '*completions*' -name $name -size +1k -o \
            -path '*site-functions*' -name $name -size +1k)" ] || fail "no completions: $name"
    done
    "$program" --version
    ;;
static)
    program=$place
    # Of one that can be loaded anywhere, ldd says without an error that it is statically linked.
    if ldd "$program" 2>/dev/null | grep '\.so' >&2; then fail "$program needs libraries"; fi
    # Where nothing else is: no library, no account, no locale.
    if [ "$(id -u)" = 0 ]; then
        cp "$program" "$folder/vmdisk"
        (cd / && chroot "$folder" /vmdisk create /rooted.qcow2 --size 1GiB --guest none --owner 0:0 >/dev/null)
    fi
    ;;
*) fail "try.sh tree FOLDER, or try.sh static PROGRAM" ;;
esac
sound_disk "$program"
echo "$program: $(wc -c <"$program") bytes, works"

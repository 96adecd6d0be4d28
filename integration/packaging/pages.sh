#!/bin/sh
# Writes the manual pages and the shell completions of the program $1 below the folder $2, laid out as
# below PREFIX/share.
set -eu
program=$1
share=$2

# The page of a verb, and of each action that the page lists.
page() {
    name=vmdisk
    for verb; do name=$name-$verb; done
    "$program" man "$@" >"$share/man/man1/$name.1"
    for action in $(sed -n "s/\\\\-/-/g; s/^$name-\([a-z]*\)(1)\$/\1/p" "$share/man/man1/$name.1"); do
        if [ "$action" != help ]; then (page "$@" "$action"); fi
    done
}

rm -rf "$share"
mkdir -p "$share/man/man1" "$share/bash-completion/completions" "$share/zsh/site-functions" \
    "$share/fish/vendor_completions.d"
page
"$program" completions bash >"$share/bash-completion/completions/vmdisk"
"$program" completions zsh >"$share/zsh/site-functions/_vmdisk"
"$program" completions fish >"$share/fish/vendor_completions.d/vmdisk.fish"

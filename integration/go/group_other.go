//go:build !unix

package vmdisk

import "os/exec"

// ownGroup does nothing where process groups are unknown.
func ownGroup(*exec.Cmd) {}

//go:build unix

package vmdisk

import (
	"os/exec"
	"syscall"
)

// ownGroup puts the program into a process group of its own: what a terminal sends to this one, such
// as the interrupt of ^C, is for this process to decide about.
func ownGroup(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

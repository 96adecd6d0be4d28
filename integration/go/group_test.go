//go:build unix

package vmdisk

import (
	"syscall"
	"testing"
)

func TestTheProgramIsInAGroupOfItsOwn(t *testing.T) {
	client := genuine(t)
	must(client.Capabilities(background, CapabilitiesRequest{}))(t)
	process := client.session.command.Process.Pid
	if group, err := syscall.Getpgid(process); err != nil || group != process {
		t.Errorf("process %d is in group %d: %v", process, group, err)
	}
	must(client.Capabilities(background, CapabilitiesRequest{}))(t)
}

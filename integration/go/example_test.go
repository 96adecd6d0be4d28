package vmdisk_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"vmdisk"
)

// driver is a docker-machine driver, as far as its disk goes.
type driver struct {
	folder   string
	diskSize uint64 // MiB, the unit of the flag.
	disks    *vmdisk.Client
}

// ensureDisk is called by Create and by every Start.
func (d *driver) ensureDisk() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	report, err := d.disks.Ensure(ctx, vmdisk.EnsureRequest{
		Path:               filepath.Join(d.folder, "disk.qcow2"),
		Size:               vmdisk.MiB(d.diskSize),
		Guest:              &vmdisk.GuestOptions{SSHKeyFiles: []string{filepath.Join(d.folder, "id.pub")}},
		LockTimeoutSeconds: 2,
	}, vmdisk.WithProgress(func(p vmdisk.Progress) {
		fmt.Fprintf(os.Stderr, "%s: %d of %d %s\n", p.Phase, p.Done, p.Total, p.Unit)
	}))
	switch {
	case errors.Is(err, vmdisk.ErrLocked):
		return fmt.Errorf("is the machine running already? %w", err)
	case err != nil:
		return err
	}
	fmt.Println(report.Action, report.Format, report.VirtualSizeBytes)
	return nil
}

func Example() {
	folder, err := os.MkdirTemp("", "machine")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	key := []byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f driver\n")
	if err := os.WriteFile(filepath.Join(folder, "id.pub"), key, 0o600); err != nil {
		panic(err)
	}

	driver := &driver{folder: folder, disks: &vmdisk.Client{}}
	defer driver.disks.Close()
	for _, diskSize := range []uint64{20000, 20000, 40000} {
		driver.diskSize = diskSize
		if err := driver.ensureDisk(); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// created qcow2 20971520000
	// unchanged qcow2 20971520000
	// grown qcow2 41943040000
}

// Package machine is the disk of a docker-machine driver: what its Create and its Start do about it.
package machine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"vmdisk"
)

// Driver is how a driver has made its disks so far, so that the machines of its users stay what they are.
type Driver struct {
	// Name is the driver's name.
	Name string
	// File is the disk's name in the folder of the machine, with MACHINE for the machine's name.
	File string
	// Format is the disk's format. It is always said, because not every name promises it.
	Format vmdisk.Format
	// Layout is what else the machine needs of it.
	Layout *vmdisk.LayoutOptions
	// Mode is the permission bits of the file, in octal. Default: "0600".
	Mode string
}

// The drivers, with the names and the formats that their machines have.
var (
	QEMU       = Driver{Name: "qemu", File: "disk.qcow2", Format: vmdisk.FormatQcow2}
	KVM        = Driver{Name: "kvm", File: "MACHINE.img", Format: vmdisk.FormatRaw, Mode: "0644"}
	XhyveQcow2 = Driver{Name: "xhyve", File: "MACHINE.qcow2", Format: vmdisk.FormatQcow2, Layout: hyperkit}
	XhyveRaw   = Driver{Name: "xhyve", File: "MACHINE.rawdisk", Format: vmdisk.FormatRaw}
	Hyperkit   = Driver{Name: "hyperkit", File: "MACHINE.rawdisk", Format: vmdisk.FormatRaw}
	// HyperkitImg is that of the driver with flags of its own.
	HyperkitImg = Driver{Name: "hyperkit", File: "disk.img", Format: vmdisk.FormatRaw}
)

// What xhyve's and hyperkit's reader of qcow2 takes.
var hyperkit = &vmdisk.LayoutOptions{Preset: vmdisk.PresetHyperkit}

// Disk is the disk of one machine.
type Disk struct {
	// Client asks the program. A driver that is installed setuid sets its Program to an absolute path,
	// because PATH and VMDISK are what the user says.
	Client *vmdisk.Client
	// Driver is what has made it.
	Driver Driver
	// Folder is the folder of the machine: ResolveStorePath(".").
	Folder string
	// Machine is the machine's name.
	Machine string
	// SizeMB is the value of the flag --NAME-disk-size: MiB, with every driver.
	SizeMB uint64
	// Guest is the guest that formats it. Default: boot2docker.
	Guest vmdisk.Guest
	// Owner is who owns the file, as "user:group", where the driver runs as root for somebody else.
	Owner string
	// Log is told what the user should know. Default: nobody.
	Log func(string)
}

// Path is where the disk is: what the machine is started with.
func (d *Disk) Path() string {
	return filepath.Join(d.Folder, strings.ReplaceAll(d.Driver.File, "MACHINE", d.Machine))
}

// Create is for a driver's Create, after ssh.GenerateSSHKey: the disk is there, whole and with the key,
// or it is not. A disk that is there already stays as it is, and is an error.
func (d *Disk) Create(ctx context.Context) error {
	report, err := d.Client.Create(ctx, vmdisk.CreateRequest{
		Path:            d.Path(),
		DockerMachineMB: d.SizeMB,
		Format:          d.Driver.Format,
		Layout:          d.Driver.Layout,
		Guest:           d.guest(),
		Mode:            d.Driver.Mode,
		Owner:           d.Owner,
	})
	if errors.Is(err, vmdisk.ErrExists) {
		return fmt.Errorf("there is a disk of machine %s already: %w", d.Machine, err)
	}
	if err != nil {
		return err
	}
	d.say(report.Notes)
	return nil
}

// Start is for a driver's Start, before the machine runs: a disk that is smaller than the flag says now
// grows, and the guest's partition and filesystem with it. It is safe at every start, of a machine that
// was killed too: what may not be touched is left as it is, and the user is told why.
func (d *Disk) Start(ctx context.Context) error {
	report, err := d.Client.Ensure(ctx, vmdisk.EnsureRequest{
		Path:               d.Path(),
		DockerMachineMB:    d.SizeMB,
		Format:             d.Driver.Format,
		Layout:             d.Driver.Layout,
		Guest:              d.guest(),
		Mode:               d.Driver.Mode,
		Owner:              d.Owner,
		LockTimeoutSeconds: 2, // An emulator that was told to end may take that long.
	})
	switch {
	case errors.Is(err, vmdisk.ErrLocked):
		return fmt.Errorf("does machine %s run already? %w", d.Machine, err)
	case errors.Is(err, vmdisk.ErrWouldShrink):
		// The user has grown it by hand: nothing is lost by that.
		d.say([]string{err.Error()})
		return nil
	case err != nil:
		return err
	}
	if report.Action == vmdisk.ActionGrown {
		d.say([]string{fmt.Sprintf("the disk has grown to %d MiB", report.VirtualSizeBytes>>20)})
	}
	if growth := report.Growth; growth != nil && growth.Refusal != nil {
		d.say([]string{"what is inside of the disk has its old size: " + growth.Refusal.Message})
	}
	if report.Changed { // Else there is only to say that the disk was there.
		d.say(report.Notes)
	}
	return nil
}

func (d *Disk) guest() *vmdisk.GuestOptions {
	return &vmdisk.GuestOptions{Profile: d.Guest, SSHKeyFiles: []string{filepath.Join(d.Folder, "id_rsa.pub")}}
}

func (d *Disk) say(lines []string) {
	for _, line := range lines {
		if d.Log != nil {
			d.Log(line)
		}
	}
}

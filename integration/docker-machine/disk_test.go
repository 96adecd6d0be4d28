package machine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vmdisk"
)

var drivers = map[string]Driver{
	"qemu": QEMU, "kvm": KVM, "xhyve qcow2": XhyveQcow2, "xhyve raw": XhyveRaw, "hyperkit": Hyperkit,
	"hyperkit img": HyperkitImg,
}

var background = context.Background()

// machine is a new machine of a driver, with the key that libmachine makes, but without a disk.
func machine(t *testing.T, driver Driver) (*Disk, []byte) {
	t.Helper()
	if os.Getenv("VMDISK") == "" {
		t.Fatal("VMDISK must be the path of the program to test")
	}
	folder := t.TempDir()
	run(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", filepath.Join(folder, "id_rsa"))
	public := filepath.Join(folder, "id_rsa.pub")
	written, err := os.ReadFile(public)
	if err != nil {
		t.Fatal(err)
	}
	// libmachine's has no comment, and no blank where one would be.
	key := []byte(strings.Join(strings.Fields(string(written))[:2], " ") + "\n")
	if err := os.WriteFile(public, key, 0o600); err != nil {
		t.Fatal(err)
	}
	client := &vmdisk.Client{}
	t.Cleanup(func() { client.Close() })
	return &Disk{Client: client, Driver: driver, Folder: folder, Machine: "dev", SizeMB: 20000}, key
}

// archive is what the writers in the drivers put at the beginning of a disk, by the same library.
func archive(t *testing.T, key []byte) []byte {
	t.Helper()
	const magic = "boot2docker, please format-me"
	var bytes bytes.Buffer
	writer := tar.NewWriter(&bytes)
	for _, entry := range []struct {
		header   tar.Header
		contents string
	}{
		{tar.Header{Name: magic}, magic},
		{tar.Header{Name: ".ssh", Typeflag: tar.TypeDir, Mode: 0o700}, ""},
		{tar.Header{Name: ".ssh/authorized_keys", Mode: 0o644}, string(key)},
		{tar.Header{Name: ".ssh/authorized_keys2", Mode: 0o644}, string(key)},
	} {
		entry.header.Size = int64(len(entry.contents))
		if err := writer.WriteHeader(&entry.header); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write([]byte(entry.contents)); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.Bytes()
}

// beginning is what a guest reads first.
func beginning(t *testing.T, disk *Disk, length int) []byte {
	t.Helper()
	raw := disk.Path()
	if disk.Driver.Format != vmdisk.FormatRaw {
		raw = filepath.Join(t.TempDir(), "raw")
		request := vmdisk.ConvertRequest{Path: disk.Path(), Out: raw, Format: vmdisk.FormatRaw}
		if _, err := disk.Client.Convert(background, request); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	read := make([]byte, length)
	if _, err := file.ReadAt(read, 0); err != nil {
		t.Fatal(err)
	}
	return read
}

func TestTheDiskIsWhatTheDriverHasMade(t *testing.T) {
	for name, driver := range drivers {
		t.Run(name, func(t *testing.T) {
			disk, key := machine(t, driver)
			if err := disk.Create(background); err != nil {
				t.Fatal(err)
			}
			info, err := disk.Client.Info(background, vmdisk.InfoRequest{Path: disk.Path(), Format: driver.Format})
			if err != nil || info.Format != driver.Format || info.VirtualSizeBytes != 20000<<20 {
				t.Errorf("%+v, %v", info, err)
			}
			// The very bytes: also the ends of the archive, and zeros behind it.
			expected := append(archive(t, key), make([]byte, 4096)...)
			if !bytes.Equal(beginning(t, disk, len(expected)), expected) {
				t.Error("the disk begins with something else")
			}
			mode := os.FileMode(0o600)
			if driver.Mode != "" {
				mode = 0o644
			}
			file, err := os.Stat(disk.Path())
			if err != nil || file.Mode().Perm() != mode {
				t.Errorf("%v, %v", file, err)
			}
			expectFolder(t, disk, filepath.Base(disk.Path()), "id_rsa", "id_rsa.pub")
		})
	}
}

func TestCreateTwiceIsAnErrorAndChangesNothing(t *testing.T) {
	disk, _ := machine(t, Hyperkit)
	if err := disk.Create(background); err != nil {
		t.Fatal(err)
	}
	before := beginning(t, disk, 8192)
	disk.SizeMB = 40000
	if err := disk.Create(background); !errors.Is(err, vmdisk.ErrExists) || !strings.Contains(err.Error(), "dev") {
		t.Error(err)
	}
	if !bytes.Equal(before, beginning(t, disk, 8192)) || size(t, disk) != 20000<<20 {
		t.Error("it was changed")
	}
}

func TestEveryStart(t *testing.T) {
	for name, driver := range drivers {
		t.Run(name, func(t *testing.T) {
			disk, key := machine(t, driver)
			var said []string
			disk.Log = func(line string) { said = append(said, line) }
			if err := disk.Create(background); err != nil {
				t.Fatal(err)
			}
			for _, start := range []struct {
				sizeMB, has uint64
				says        string
			}{
				{20000, 20000, ""},
				{20001, 20001, "has grown to 20001 MiB"},
				{20001, 20001, ""},
				{10000, 20001, "shrink"}, // Somebody has grown it by hand.
			} {
				said, disk.SizeMB = nil, start.sizeMB
				if err := disk.Start(background); err != nil {
					t.Fatal(err)
				}
				if size(t, disk) != start.has<<20 {
					t.Errorf("%d: it has %d bytes", start.sizeMB, size(t, disk))
				}
				if told := strings.Join(said, "\n"); start.says == "" && told != "" || !strings.Contains(told, start.says) {
					t.Errorf("%d: %q", start.sizeMB, told)
				}
			}
			expected := archive(t, key)
			if !bytes.Equal(beginning(t, disk, len(expected)), expected) {
				t.Error("the key is gone")
			}
		})
	}
}

// What is inside grows with the disk, and what was not unmounted cleanly is left alone, which is no error.
func TestStartOfAMachineThatHasRun(t *testing.T) {
	for _, clean := range []bool{true, false} {
		disk, _ := machine(t, Hyperkit)
		var said []string
		disk.Log = func(line string) { said = append(said, line) }
		disk.SizeMB = 100
		if err := disk.Create(background); err != nil {
			t.Fatal(err)
		}
		run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "boot2docker-data", disk.Path())
		if !clean {
			run(t, "debugfs", "-w", "-R", "ssv state 0", disk.Path())
		}
		disk.SizeMB = 200
		if err := disk.Start(background); err != nil {
			t.Fatal(err)
		}
		inside, err := disk.Client.Guest(background, vmdisk.InsideRequest{Path: disk.Path(), Format: vmdisk.FormatRaw})
		if err != nil || inside.Filesystem == nil {
			t.Fatalf("%+v, %v", inside, err)
		}
		has, refused := inside.Filesystem.SizeBytes, strings.Contains(strings.Join(said, "\n"), "old size")
		if clean && (has != 200<<20 || refused) || !clean && (has != 100<<20 || !refused) {
			t.Errorf("clean: %v, %d bytes, %q", clean, has, said)
		}
	}
}

func TestStartOfAMachineThatRuns(t *testing.T) {
	disk, _ := machine(t, QEMU)
	if err := disk.Create(background); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(disk.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	disk.SizeMB = 40000
	if err := disk.Start(background); !errors.Is(err, vmdisk.ErrLocked) || !strings.Contains(err.Error(), "run already") {
		t.Error(err)
	}
}

// A disk that is not laid out for xhyve's reader may have zeros in it that it takes for the header.
func TestStartOfAMachineWithAnotherLayout(t *testing.T) {
	disk, _ := machine(t, XhyveQcow2)
	disk.Driver.Layout = nil
	if err := disk.Create(background); err != nil {
		t.Fatal(err)
	}
	disk.Driver, disk.SizeMB = XhyveQcow2, 40000
	if err := disk.Start(background); !errors.Is(err, vmdisk.ErrExists) || size(t, disk) != 20000<<20 {
		t.Error(err, size(t, disk))
	}
}

func TestAKeyThatIsMissing(t *testing.T) {
	disk, _ := machine(t, KVM)
	if err := os.Remove(filepath.Join(disk.Folder, "id_rsa.pub")); err != nil {
		t.Fatal(err)
	}
	if err := disk.Create(background); !errors.Is(err, vmdisk.ErrNotFound) {
		t.Error(err)
	}
	expectFolder(t, disk, "id_rsa")
}

func size(t *testing.T, disk *Disk) uint64 {
	t.Helper()
	info, err := disk.Client.Info(background, vmdisk.InfoRequest{Path: disk.Path(), Format: disk.Driver.Format})
	if err != nil {
		t.Fatal(err)
	}
	return info.VirtualSizeBytes
}

// run runs a program, which may be among those of the system's administrator.
func run(t *testing.T, program string, arguments ...string) {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	if output, err := exec.Command(program, arguments...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", program, err, output)
	}
}

func expectFolder(t *testing.T, disk *Disk, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(disk.Folder)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range entries {
		found = append(found, entry.Name())
	}
	if fmt.Sprint(found) != fmt.Sprint(names) {
		t.Errorf("the folder has %q, not %q", found, names)
	}
}

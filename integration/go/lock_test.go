//go:build unix

package vmdisk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestLocked(t *testing.T) {
	client, path := genuine(t), filepath.Join(t.TempDir(), "m.qcow2")
	must(client.Create(background, CreateRequest{Path: path, Size: GiB(1)}))(t)
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}

	_, err = client.Resize(background, ResizeRequest{Path: path, Size: GiB(2)})
	var failure *Error
	if !errors.Is(err, ErrLocked) || !errors.As(err, &failure) || !failure.Retriable || failure.Changed {
		t.Fatalf("%+v", err)
	}
	if holder := failure.Holder; holder != nil && int(holder.PID) != os.Getpid() {
		t.Errorf("%+v", holder)
	}

	ctx, cancel := context.WithTimeout(background, 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = client.Resize(ctx, ResizeRequest{Path: path, Size: GiB(2), LockTimeoutSeconds: 60})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrCancelled) || time.Since(began) > 3*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}

	time.AfterFunc(300*time.Millisecond, func() { file.Close() })
	report := must(client.Resize(background, ResizeRequest{Path: path, Size: GiB(2), LockTimeoutSeconds: 10}))(t)
	if !report.Changed {
		t.Errorf("%+v", report)
	}
}

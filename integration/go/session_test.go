package vmdisk

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func ask(client *Client) error {
	_, err := client.Info(background, InfoRequest{Path: "m.qcow2"})
	return err
}

func TestWhatCannotBeUnderstoodEndsTheSession(t *testing.T) {
	for _, how := range []string{"garbage", "array", "unasked", "null id"} {
		var failure *ProcessError
		err := ask(fake(t, how))
		if !errors.As(err, &failure) || !strings.Contains(err.Error(), "cannot be understood") {
			t.Errorf("%s: %v", how, err)
		}
	}
}

func TestResultsThatCannotBeUnderstoodAreDefects(t *testing.T) {
	for _, how := range []string{"no result", "wrong type"} {
		client := fake(t, how)
		for i := 0; i < 2; i++ {
			var failure *Error
			if err := ask(client); !errors.Is(err, ErrInternal) || !errors.As(err, &failure) || !failure.Changed {
				t.Errorf("%s: %v", how, err)
			}
		}
	}
}

func TestAnUnknownKindIsADefect(t *testing.T) {
	err := ask(fake(t, "unknown kind"))
	var failure *Error
	if !errors.Is(err, ErrInternal) || !errors.Is(err, Kind("moon_phase")) || !errors.As(err, &failure) || failure.Code != 77 || !failure.Changed {
		t.Errorf("%+v", err)
	}
}

func TestADefectEndsTheSessionBeforeTheNextCall(t *testing.T) {
	client := fake(t, "internal")
	for i := 0; i < 5; i++ {
		if err := ask(client); !errors.Is(err, ErrInternal) {
			t.Error(err)
		}
	}
}

func TestOtherProtocols(t *testing.T) {
	for _, how := range []string{"protocol 2", "protocol unsupported"} {
		err := ask(fake(t, how))
		var failure *Error
		if !errors.Is(err, ErrProtocolUnsupported) || !errors.As(err, &failure) || !strings.HasPrefix(failure.Supported[0], "2") {
			t.Errorf("%s: %+v", how, err)
		}
	}
}

func TestLargeAnswersAndUnknownNotifications(t *testing.T) {
	client := fake(t, "large")
	report := must(client.Info(background, InfoRequest{Path: "m.qcow2"}))(t)
	if len(report.Path) != 8<<20 {
		t.Error(len(report.Path))
	}
}

func TestDeathTellsTheLastWordsAndTheNextCallStartsAnew(t *testing.T) {
	client := fake(t, "die")
	err := ask(client)
	var failure *ProcessError
	if !errors.As(err, &failure) || failure.State.ExitCode() != 3 || failure.Stderr != "the last words\n" || !errors.Is(err, io.EOF) {
		t.Errorf("%+v", err)
	}

	file := filepath.Join(t.TempDir(), "first")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VMDISK_FAKE_FILE", file)
	client = fake(t, "die once")
	if err := ask(client); !errors.As(err, &failure) {
		t.Error(err)
	}
	if err := ask(client); err != nil {
		t.Error(err)
	}
}

func TestKilledMidCall(t *testing.T) {
	client, folder := genuine(t), t.TempDir()
	var once sync.Once
	_, err := client.Create(background, full(folder, GiB(8)), WithProgress(func(Progress) {
		once.Do(func() { _ = client.session.command.Process.Kill() })
	}))
	var failure *ProcessError
	if !errors.As(err, &failure) || failure.State.Success() {
		t.Fatal(err)
	}
	request := CreateRequest{Path: filepath.Join(folder, "full.raw"), Size: MiB(1)}
	must(client.Create(background, request))(t)
	expectFiles(t, folder, "full.raw")
}

func TestADeafProgramIsKilled(t *testing.T) {
	client := fake(t, "deaf")
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	_, err := client.Info(ctx, InfoRequest{Path: "m.qcow2"})
	var failure *ProcessError
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrCancelled) || !errors.As(err, &failure) {
		t.Error(err)
	}

	client = fake(t, "deaf")
	failed := make(chan error)
	go func() { failed <- ask(client) }()
	for client.started() == nil {
		time.Sleep(time.Millisecond)
	}
	if err := client.Close(); !errors.As(err, &failure) && err != nil {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := client.Close(); err != nil {
		t.Error("the second time:", err)
	}
}

func TestCloseIsNotToldWhatACallWasTold(t *testing.T) {
	for _, how := range []string{"garbage", "die", "deaf", "internal"} {
		client := fake(t, how)
		ctx, cancel := context.WithTimeout(background, 500*time.Millisecond)
		if _, err := client.Info(ctx, InfoRequest{Path: "m.qcow2"}); err == nil {
			t.Errorf("%s: no error", how)
		}
		cancel()
		for i := 0; i < 2; i++ {
			if err := client.Close(); err != nil {
				t.Errorf("%s: %v", how, err)
			}
		}
	}
}

// A program that does not read must not keep a call longer than its context and the grace.
func TestAProgramThatDoesNotRead(t *testing.T) {
	client := fake(t, "deaf")
	keys := []string{strings.Repeat("x", 900_000)}
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	for i := 0; i < 3; i++ {
		_, err := client.Create(ctx, CreateRequest{Path: "m", Guest: &GuestOptions{SSHKeys: keys}})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
}

func TestDiscovery(t *testing.T) {
	path, empty, other := program(t), t.TempDir(), t.TempDir()
	link := filepath.Join(other, "vmdisk")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	nowhere := filepath.Join(empty, "nowhere")
	for _, test := range []struct {
		option, variable, path string
		from                   string
		found                  bool
	}{
		{option: path, variable: nowhere, path: empty, found: true},
		{option: nowhere, variable: path, path: other, from: "Client.Program"},
		{variable: path, path: empty, found: true},
		{variable: nowhere, path: other, from: "VMDISK"},
		{path: other, found: true},
		{path: empty, from: "PATH"},
	} {
		t.Setenv("VMDISK", test.variable)
		t.Setenv("PATH", test.path)
		client := &Client{Program: test.option}
		_, err := client.Capabilities(background, CapabilitiesRequest{})
		client.Close()
		var failure *ProgramError
		if test.found != (err == nil) || err != nil && (!errors.As(err, &failure) || failure.From != test.from) {
			t.Errorf("%+v: %v", test, err)
		}
		if err != nil && !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%+v", err)
		}
	}
}

// started is the session, once there is one.
func (c *Client) started() *session {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.session
}

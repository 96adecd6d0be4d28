package vmdisk

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"
)

func TestASlowCallbackDoesNotKeepTheProgramFromStopping(t *testing.T) {
	client := fake(t, "stoppable")
	if err := ask(client); err != nil { // Starting it is not what the deadline is for.
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	shown := 0
	_, err := client.Info(ctx, InfoRequest{Path: "m"}, WithProgress(func(Progress) {
		shown++
		time.Sleep(time.Second) // Meanwhile it would answer, were it not told to stop.
	}))
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrCancelled) || shown != 1 {
		t.Errorf("after %d callbacks: %v", shown, err)
	}
}

func TestASlowCallbackDoesNotKeepTheDiskFromNotBeingMade(t *testing.T) {
	client, folder := genuine(t), t.TempDir()
	ctx, cancel := context.WithTimeout(background, 200*time.Millisecond)
	defer cancel()
	began, shown := time.Now(), 0
	_, err := client.Create(ctx, full(folder, GiB(8)), WithProgress(func(Progress) {
		shown++
		time.Sleep(time.Second)
	}))
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrCancelled) || shown > 1 || time.Since(began) > 6*time.Second {
		t.Errorf("after %v and %d callbacks: %v", time.Since(began), shown, err)
	}
	expectFiles(t, folder)
}

func TestASlowCallbackDoesNotProlongTheGrace(t *testing.T) {
	client := fake(t, "unstoppable")
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	_, err := client.Info(ctx, InfoRequest{Path: "m"}, WithProgress(func(Progress) {
		select {
		case <-client.started().dead:
		case <-time.After(5 * time.Second):
			t.Error("the program still runs")
		}
	}))
	var failure *ProcessError
	if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &failure) {
		t.Error(err)
	}
}

func TestTheNewestProgressIsKept(t *testing.T) {
	client := fake(t, "burst late")
	var seen []uint64
	_, err := client.Info(background, InfoRequest{Path: "m"}, WithProgress(func(p Progress) {
		seen = append(seen, p.Done)
		time.Sleep(400 * time.Millisecond)
	}))
	if err != nil || len(seen) < 2 || len(seen) > 3 || seen[len(seen)-1] != burst {
		t.Errorf("%v: %v", seen, err)
	}
}

func TestNothingIsShownAfterTheAnswer(t *testing.T) {
	client := fake(t, "burst")
	began, shown := time.Now(), 0
	_, err := client.Info(background, InfoRequest{Path: "m"}, WithProgress(func(p Progress) {
		shown++
		time.Sleep(500 * time.Millisecond)
	}))
	if err != nil || shown > 1 {
		t.Errorf("%d callbacks in %v: %v", shown, time.Since(began), err)
	}
}

func TestProgressThatNobodyAskedForIsIgnored(t *testing.T) {
	if err := ask(fake(t, "burst late")); err != nil {
		t.Error(err)
	}
}

func TestACallbackThatDoesNotReturnLeavesNothing(t *testing.T) {
	for how, leave := range map[string]func(){
		"panic": func() { panic("of the callback") },
		"exit":  runtime.Goexit,
	} {
		client, folder := genuine(t), t.TempDir()
		caught := make(chan any)
		go func() {
			defer func() { caught <- recover() }()
			_, err := client.Create(background, full(folder, GiB(8)), WithProgress(func(Progress) { leave() }))
			t.Errorf("%s: the call returned: %v", how, err)
		}()
		if value := <-caught; value != nil && value != "of the callback" || (value == nil) != (how == "exit") {
			t.Errorf("%s: %v", how, value)
		}
		expectFiles(t, folder)
		session := client.session
		for i := 0; i < 2; i++ {
			must(client.Capabilities(background, CapabilitiesRequest{}))(t)
		}
		if client.session != session {
			t.Errorf("%s: the program was started anew", how)
		}
	}
}

func TestAPanicWithAProgramThatDoesNotStop(t *testing.T) {
	client := fake(t, "unstoppable")
	for i := 0; i < 2; i++ {
		func() {
			defer func() {
				if value := recover(); value != "of the callback" {
					t.Error(value)
				}
			}()
			_, _ = client.Info(background, InfoRequest{Path: "m"}, WithProgress(func(Progress) { panic("of the callback") }))
		}()
		if !client.session.ended() {
			t.Error("the program still runs")
		}
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

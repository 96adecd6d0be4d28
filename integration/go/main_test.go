package vmdisk

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// The test binary is also the program that misbehaves: VMDISK_FAKE says how.
func TestMain(m *testing.M) {
	if fake := os.Getenv("VMDISK_FAKE"); fake != "" {
		misbehave(fake)
		os.Exit(3)
	}
	os.Exit(m.Run())
}

const answer = `{"jsonrpc":"2.0","id":%d,"result":{"path":"%s","meta":{"protocol":"%s","tool":{"name":"fake","version":"9"}},"new":{}}}` + "\n"

// burst is how much progress is told at once.
const burst = 200

func misbehave(how string) {
	stop := make(chan struct{})
	input := bufio.NewReader(os.Stdin)
	for {
		line, err := input.ReadBytes('\n')
		if err != nil {
			os.Exit(0)
		}
		var request struct {
			ID     uint64
			Method string
		}
		_ = json.Unmarshal(line, &request)
		failure := func(data string) {
			fmt.Printf(`{"jsonrpc":"2.0","id":%d,"error":{"code":77,"message":"no","data":{%s}}}`+"\n", request.ID, data)
		}
		progress := func(done uint64) {
			const line = `{"jsonrpc":"2.0","method":"progress","params":{"id":%d,"phase":"fake","done":%d,"total":200,"unit":"bytes"}}`
			fmt.Printf(line+"\n", request.ID, done)
		}
		switch how {
		case "garbage":
			fmt.Println("vmdisk 0.0 is not what you think")
		case "array":
			fmt.Println("[1,2]")
		case "unasked":
			fmt.Printf(answer, request.ID+1, "", "1")
		case "null id":
			fmt.Println(`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no","data":{"kind":"bad_request"}}}`)
		case "no result":
			fmt.Printf(`{"jsonrpc":"2.0","id":%d}`+"\n", request.ID)
		case "wrong type":
			fmt.Printf(`{"jsonrpc":"2.0","id":%d,"result":{"path":5,"meta":{"protocol":"1"}}}`+"\n", request.ID)
		case "unknown kind":
			failure(`"kind":"moon_phase","retriable":false,"changed":true,"new":1`)
		case "internal":
			failure(`"kind":"internal","retriable":false,"changed":true`)
			os.Exit(1)
		case "protocol 2":
			fmt.Printf(answer, request.ID, "", "2.1")
		case "protocol unsupported":
			failure(`"kind":"protocol_unsupported","retriable":false,"changed":false,"supported":["2"]`)
		case "large":
			fmt.Println(`{"jsonrpc":"2.0","method":"weather","params":["fine"]}`)
			fmt.Printf(answer, request.ID, strings.Repeat("x", 8<<20), "1")
		case "die":
			fmt.Fprintln(os.Stderr, "the last words")
			os.Exit(3)
		case "die once":
			if os.Remove(os.Getenv("VMDISK_FAKE_FILE")) == nil {
				os.Exit(3)
			}
			fmt.Printf(answer, request.ID, "", "1")
		case "burst", "burst late":
			for done := uint64(1); done <= burst; done++ {
				progress(done)
			}
			if how == "burst late" {
				time.Sleep(700 * time.Millisecond)
			}
			fmt.Printf(answer, request.ID, "", "1")
		case "stoppable":
			if request.Method == "cancel" {
				close(stop)
				continue
			}
			progress(1)
			go func() {
				for done := uint64(2); done < 50; done++ { // For half a second.
					select {
					case <-stop:
						failure(`"kind":"cancelled","retriable":false,"changed":false`)
						return
					case <-time.After(10 * time.Millisecond):
						progress(done)
					}
				}
				fmt.Printf(answer, request.ID, "", "1")
			}()
		case "unstoppable":
			progress(1)
		case "deaf":
			time.Sleep(time.Minute)
		}
	}
}

// fake is a client of a program that misbehaves.
func fake(t *testing.T, how string) *Client {
	t.Helper()
	t.Setenv("VMDISK_FAKE", how)
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	client := &Client{Program: path, Grace: 200 * time.Millisecond}
	t.Cleanup(func() { client.Close() })
	return client
}

// genuine is a client of the program itself.
func genuine(t *testing.T) *Client {
	t.Helper()
	program(t)
	client := &Client{}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

// program is the path of the program under test.
func program(t *testing.T) string {
	t.Helper()
	path := os.Getenv("VMDISK")
	if path == "" {
		t.Fatal("VMDISK must be the path of the program to test")
	}
	return path
}

// must is the report of a call that may not fail.
func must[R any](report *R, err error) func(t *testing.T) *R {
	return func(t *testing.T) *R {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
}

var background = context.Background()

package vmdisk

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// protocol is the major version of the protocol that this client speaks.
const protocol = "1"

// maxRequest is the longest request that the program reads, in bytes.
const maxRequest = 1 << 20

// The codes that JSON-RPC and the protocol have for what is found wrong on this side.
const (
	codeInvalidRequest      = -32600
	codeProtocolUnsupported = 2
	codeInternal            = 28
)

// request is what every request can be told.
type request interface{ fields() *callFields }

// message is a line of the program: an answer, or a notification if it has a method.
type message struct {
	Version string          `json:"jsonrpc"`
	ID      *uint64         `json:"id"`
	Result  json.RawMessage `json:"result"`
	Error   *Error          `json:"error"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
}

// encode makes a request the params of a line.
func encode(request request) (json.RawMessage, error) {
	if !isUTF8(reflect.ValueOf(request)) {
		// JSON would have another path.
		return nil, invalid("a text or path in the request is not UTF-8")
	}
	params, err := json.Marshal(request)
	if err != nil {
		return nil, invalid(err.Error())
	}
	if line := requestLine(1<<64-1, "capabilities", params); len(line) > maxRequest {
		return nil, invalid(fmt.Sprintf("the request has %d bytes, more than %d", len(line), maxRequest))
	}
	return params, nil
}

func invalid(why string) error {
	data := ErrorData{Kind: ErrBadRequest}
	return &Error{Code: codeInvalidRequest, Message: why, ErrorData: data}
}

func isUTF8(value reflect.Value) bool {
	switch value.Kind() {
	case reflect.String:
		return utf8.ValidString(value.String())
	case reflect.Pointer:
		return value.IsNil() || isUTF8(value.Elem())
	case reflect.Slice:
		for i := 0; i < value.Len(); i++ {
			if !isUTF8(value.Index(i)) {
				return false
			}
		}
	case reflect.Struct:
		for i := 0; i < value.NumField(); i++ {
			if !isUTF8(value.Field(i)) {
				return false
			}
		}
	}
	return true
}

func requestLine(id uint64, method string, params json.RawMessage) []byte {
	return []byte(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`+"\n", id, method, params))
}

func cancelLine(id uint64) []byte {
	return []byte(fmt.Sprintf(`{"jsonrpc":"2.0","method":"cancel","params":{"id":%d}}`+"\n", id))
}

// decode understands a line.
func decode(line []byte) (*message, error) {
	message := new(message)
	if err := json.Unmarshal(line, message); err != nil {
		return nil, malformed(err.Error(), line)
	}
	if message.Version != "2.0" {
		return nil, malformed("no JSON-RPC 2.0", line)
	}
	return message, nil
}

func malformed(why string, line []byte) error {
	if len(line) > 200 {
		line = line[:200]
	}
	return fmt.Errorf("it writes what cannot be understood (%s): %q", why, line)
}

// progressOf is the progress of this call, if that is what the notification tells.
func (m *message) progressOf(id uint64) (Progress, bool) {
	var params struct {
		ID uint64 `json:"id"`
		Progress
	}
	ok := m.Method == "progress" && json.Unmarshal(m.Params, &params) == nil && params.ID == id
	return params.Progress, ok
}

// read puts a result into report, or says why there is none.
func (m *message) read(report any) error {
	if m.Error != nil {
		return m.Error
	}
	var result struct{ Meta Meta }
	if err := json.Unmarshal(m.Result, &result); err != nil {
		return notUnderstood(err.Error())
	}
	spoken := result.Meta.Protocol
	if spoken == "" {
		return notUnderstood("it does not say its protocol")
	}
	if major, _, _ := strings.Cut(spoken, "."); major != protocol {
		message := fmt.Sprintf("the program speaks protocol %s, this client %s", spoken, protocol)
		data := ErrorData{Kind: ErrProtocolUnsupported, Changed: true, Supported: []string{spoken}}
		return &Error{Code: codeProtocolUnsupported, Message: message, ErrorData: data}
	}
	if err := json.Unmarshal(m.Result, report); err != nil {
		return notUnderstood(err.Error())
	}
	return nil
}

func notUnderstood(why string) error {
	data := ErrorData{Kind: ErrInternal, Changed: true}
	return &Error{Code: codeInternal, Message: "the answer is not understood: " + why, ErrorData: data}
}

package vmdisk

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// maxReply is the longest line that is read, in bytes: far more than any disk's report has.
const maxReply = 64 << 20

// maxStderr is how much of standard error is kept, in bytes.
const maxStderr = 4 << 10

// session is one run of the program. It is asked one thing at a time, so that a call that is no
// longer wanted is either running, and stopped at once, or was never sent; and so that the program
// always reads.
//
// Three goroutines serve it until it has ended: one writes, so that a call can be given up while
// the program does not read; one reads, always, so that the program can write; one reads standard
// error. A fourth serves a call until it is over, so that nothing waits for who shows its progress.
type session struct {
	command *exec.Cmd
	grace   time.Duration
	stdin   io.WriteCloser
	stdout  io.ReadCloser
	stderr  io.ReadCloser
	lines   chan []byte   // What is to be written.
	said    chan string   // The end of standard error, once it ended.
	dead    chan struct{} // Closed when the process is gone; then err is why.
	err     *ProcessError
	lastID  uint64 // Of the one who has the turn.
	mutex   sync.Mutex
	pending *pending // The call that is waited for.
	reason  error    // Why the process shall end, once it shall.
	killed  bool
}

// pending is a call that waits for its answer.
type pending struct {
	id       uint64
	progress chan Progress // Holds the newest that was not shown.
	answer   chan *message
}

func start(path string, grace time.Duration) (*session, error) {
	s := &session{
		command: exec.Command(path, "rpc"),
		grace:   grace,
		lines:   make(chan []byte),
		said:    make(chan string, 1),
		dead:    make(chan struct{}),
	}
	ownGroup(s.command)
	var failed [3]error
	s.stdin, failed[0] = s.command.StdinPipe()
	s.stdout, failed[1] = s.command.StdoutPipe()
	s.stderr, failed[2] = s.command.StderrPipe()
	for _, err := range failed {
		if err != nil {
			return nil, err
		}
	}
	if err := s.command.Start(); err != nil {
		return nil, err
	}
	go s.write()
	go s.read()
	go s.listen()
	return s, nil
}

// call sends a request and waits for its answer, which it puts into report. Here is where show runs,
// and what takes no notice of it is in another goroutine: a context that is done is told to the
// program at once, and its time to stop runs, whatever show does. When show panics, the program is
// told to stop too, and has stopped before the panic goes on, so that the session has no open call.
func (s *session) call(ctx context.Context, method string, params json.RawMessage, show func(Progress), report any) (err error) {
	s.lastID++
	call := &pending{s.lastID, make(chan Progress, 1), make(chan *message, 1)}
	s.expect(call)
	ctx, leave := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		err = s.converse(ctx, call, requestLine(call.id, method, params), report)
	}()
	defer func() {
		leave()
		<-over
	}()
	for {
		select {
		case progress := <-call.progress:
			if show != nil && ctx.Err() == nil && !isClosed(over) {
				show(progress)
			}
		case <-over:
			return err
		}
	}
}

// converse writes the line of a call, and that it shall stop when ctx is done, until the call is
// over: answered, or the process is gone.
func (s *session) converse(ctx context.Context, call *pending, line []byte, report any) error {
	var (
		lines = s.lines // Not nil while line is still to be written.
		done  = ctx.Done()
		grace <-chan time.Time
	)
	for {
		select {
		case lines <- line:
			lines = nil
		case answer := <-call.answer:
			err := answer.read(report)
			if failure, ok := err.(*Error); ok && failure.Kind == ErrInternal {
				// It ends by itself after a defect, and what comes next must not meet that end.
				_ = s.close(failure)
			}
			if ctx.Err() != nil && errors.Is(err, ErrCancelled) {
				return &stoppedError{ctx.Err(), err}
			}
			return err
		case <-done:
			if lines != nil {
				s.expect(nil)
				return notBegun(ctx)
			}
			line, lines, done = cancelLine(call.id), s.lines, nil
			timer := time.NewTimer(s.grace)
			defer timer.Stop()
			grace = timer.C
		case <-grace:
			s.kill(errors.New("it did not stop when it was told to"))
		case <-s.dead:
			if len(call.answer) > 0 {
				continue // What was answered before the end counts.
			}
			if ctx.Err() != nil {
				return &stoppedError{ctx.Err(), s.err}
			}
			return s.err
		}
	}
}

func (s *session) expect(call *pending) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.pending = call
}

func (s *session) write() {
	for {
		select {
		case line := <-s.lines:
			// Should it fail, the program no longer reads: it ends, or has ended.
			if _, err := s.stdin.Write(line); err != nil {
				go s.close(err)
			}
		case <-s.dead:
			return
		}
	}
}

func (s *session) read() {
	reader := bufio.NewReader(s.stdout)
	for {
		line, err := readLine(reader)
		if err == nil {
			err = s.take(line)
		}
		if err != nil {
			if err != io.EOF {
				s.kill(err)
			}
			s.end(err)
			return
		}
	}
}

// readLine reads up to a newline. A last line without one is no line.
func readLine(reader *bufio.Reader) (line []byte, err error) {
	for {
		part, err := reader.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if err != bufio.ErrBufferFull {
			return nil, err
		}
		if len(line) > maxReply {
			return nil, errors.New("it writes a line without an end")
		}
	}
}

// take hands what the program says to the one who waits for it.
func (s *session) take(line []byte) error {
	message, err := decode(line)
	if err != nil {
		return err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	call := s.pending
	if message.Method != "" {
		call.tell(message)
		return nil
	}
	if call == nil || message.ID == nil || *message.ID != call.id {
		return malformed("an answer to nothing that was asked", line)
	}
	call.forget() // What was not shown in time never is.
	call.answer <- message
	s.pending = nil
	return nil
}

// tell passes progress on; other notifications, and those of other calls, are ignored.
func (p *pending) tell(message *message) {
	if p == nil {
		return
	}
	if progress, ok := message.progressOf(p.id); ok {
		p.forget()
		p.progress <- progress // There is room: nobody else sends.
	}
}

func (p *pending) forget() {
	select {
	case <-p.progress:
	default:
	}
}

// listen keeps the end of standard error.
func (s *session) listen() {
	var end []byte
	part := make([]byte, maxStderr)
	for {
		n, err := s.stderr.Read(part)
		end = append(end, part[:n]...)
		if over := len(end) - maxStderr; over > 0 {
			end = end[over:]
		}
		if err != nil {
			s.said <- string(end)
			return
		}
	}
}

// end waits until the process is gone, after nothing more can be read from it.
func (s *session) end(why error) {
	s.stdin.Close()
	timer := time.AfterFunc(s.grace, func() { s.kill(errors.New("it did not end")) })
	said := <-s.said
	// How it ended is in its state.
	_ = s.command.Wait()
	timer.Stop()
	s.mutex.Lock()
	if s.reason != nil {
		why = s.reason
	}
	s.mutex.Unlock()
	s.err = &ProcessError{State: s.command.ProcessState, Stderr: said, Err: why}
	close(s.dead)
}

// close ends the process: by the end of its input, then by the signal that stops it at a safe
// point, then by force. The error is that force was needed. It is nil when the process was gone
// before: whoever waited for it has been told.
func (s *session) close(reason error) error {
	if s.ended() {
		return nil
	}
	s.because(reason)
	s.stdin.Close()
	stop := time.AfterFunc(s.grace, func() { _ = s.command.Process.Signal(syscall.SIGTERM) })
	kill := time.AfterFunc(2*s.grace, func() { s.kill(reason) })
	<-s.dead
	stop.Stop()
	kill.Stop()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.killed {
		return s.err
	}
	return nil
}

// kill ends the process at once. The pipes are closed too: somebody else may hold their other ends.
func (s *session) kill(reason error) {
	s.because(reason)
	s.mutex.Lock()
	s.killed = true
	s.mutex.Unlock()
	_ = s.command.Process.Kill()
	s.stdin.Close()
	s.stdout.Close()
	time.AfterFunc(time.Second, func() { s.stderr.Close() })
}

func (s *session) because(reason error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.reason == nil {
		s.reason = reason
	}
}

func (s *session) ended() bool { return isClosed(s.dead) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

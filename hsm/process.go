package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is one running process of a module. It is ended for good by the first of: its own end, an answer that makes no
// sense, a call that takes too long, the end of the token.
type process struct {
	cmd      *exec.Cmd
	requests *os.File
	replies  *os.File
	ended    chan struct{} // closed when it has been waited for

	writing sync.Mutex

	mu    sync.Mutex
	last  uint64              // id of a request
	calls map[uint64]*pending // nil: it has ended
	cause error               // why it ended, or is about to
}

// pending is a call inside the process.
type pending struct {
	answer chan reply // closed without one when the process has ended
	leave  func()     // gives the caller's slot back, when the call is over and not when its caller has gone
	watch  *time.Timer
}

// spawn starts a process. onEnd is called once, when it has ended.
func spawn(command []string, log *slog.Logger, onEnd func(p *process)) (*process, error) {
	theirRequests, requests, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	replies, theirReplies, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, theirRequests.Close(), requests.Close())
	}
	//nolint:noctx // it outlives whoever needs it first; end and the pipe end it
	cmd := exec.Command(command[0], command[1:]...) // #nosec G204 -- this program's own command
	said := &chatter{log: log, left: maxLines}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = said, said, time.Second
	cmd.ExtraFiles = []*os.File{theirRequests, theirReplies}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is the appliance's: it still has to sign
	err = errors.Join(cmd.Start(), theirRequests.Close(), theirReplies.Close())
	if err != nil {
		return nil, errors.Join(err, requests.Close(), replies.Close())
	}
	p := &process{cmd: cmd, requests: requests, replies: replies, ended: make(chan struct{}), calls: map[uint64]*pending{}}
	go func() { // joined by ended
		p.end(p.receive())
		p.bury()
		onEnd(p)
		close(p.ended)
	}()
	return p, nil
}

// maxLines is how much of what one process prints is logged: the beginning of why it crashed, say.
const maxLines = 8

// chatter logs what a process prints, which the library may do as it likes: so many lines, cut short.
type chatter struct {
	log  *slog.Logger
	left int
}

func (c *chatter) Write(b []byte) (int, error) {
	for line := range bytes.Lines(b) {
		if line = bytes.TrimSpace(line); len(line) > 0 && c.left > 0 {
			c.left--
			c.log.Warn("hsm: the module's process says", slog.String("line", string(line[:min(len(line), maxText)])))
		}
	}
	return len(b), nil
}

// ask sends a request and waits for its answer. leave is called once, when the process is done with it.
func (p *process) ask(ctx context.Context, limit time.Duration, q request, leave func()) (reply, error) {
	c := &pending{answer: make(chan reply, 1), leave: leave}
	if !p.enlist(c, &q, limit) {
		leave()
		return reply{}, p.gone()
	}
	p.writing.Lock()
	err := writeFrame(p.requests, q) // a process that does not read is ended by the watch
	p.writing.Unlock()
	if err != nil {
		p.end(err)
	}
	select {
	case r, ok := <-c.answer:
		if !ok {
			return reply{}, p.gone()
		}
		if r.Error != nil {
			return reply{}, r.Error
		}
		return r, nil
	case <-ctx.Done():
		return reply{}, fmt.Errorf("hsm: the module has not answered in time: %w", ctx.Err())
	}
}

func (p *process) enlist(c *pending, q *request, limit time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls == nil {
		return false
	}
	p.last++
	q.ID = p.last
	p.calls[q.ID] = c
	c.watch = time.AfterFunc(limit, func() { p.end(fmt.Errorf("%w: no answer for %v", ErrHung, limit)) })
	return true
}

// receive hands out answers until one makes no sense or the pipe ends.
func (p *process) receive() error {
	for {
		var r reply
		if err := readFrame(p.replies, &r); err != nil {
			return err
		}
		p.mu.Lock()
		c, ok := p.calls[r.ID]
		delete(p.calls, r.ID)
		p.mu.Unlock()
		if !ok {
			return errors.New("it answered what it was not asked")
		}
		c.watch.Stop()
		c.answer <- r
		c.leave()
	}
}

// end kills the process. The first cause stays.
func (p *process) end(cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cause == nil {
		p.cause = cause
	}
	_ = p.cmd.Process.Kill() // it may have ended
}

// bury waits for the process and tells those whose calls went with it.
func (p *process) bury() {
	_ = p.cmd.Wait() // how it ended is in its state
	_, _ = p.requests.Close(), p.replies.Close()
	p.mu.Lock()
	calls := p.calls
	p.calls = nil
	p.mu.Unlock()
	for _, c := range calls {
		c.watch.Stop()
		close(c.answer)
		c.leave()
	}
}

func (p *process) alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls != nil
}

// gone says why there is no answer.
func (p *process) gone() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(p.cause, ErrHung) {
		return fmt.Errorf("%w: the module's process was killed: %w", ErrUnavailable, p.cause)
	}
	return fmt.Errorf("%w: the module's process has ended: %v: %w", ErrUnavailable, p.cmd.ProcessState, p.cause)
}

package swtpm

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const maxMessage = 8 << 10

// proxy forwards TPM commands from its own socket to the TPM's, one at a time for each connection.
type proxy struct {
	path, upstream string
	latency        atomic.Int64 // of type time.Duration
	drops          atomic.Int64
	filter         atomic.Pointer[func(command, response []byte) []byte]

	tpm  sync.Mutex // one command at a time
	mu   sync.Mutex
	gate chan struct{} // commands wait until it is closed; nil if open
	done chan struct{}
	wg   sync.WaitGroup
}

func newProxy(t testing.TB, path, upstream string) *proxy {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{path: path, upstream: upstream, done: make(chan struct{})}
	p.wg.Go(func() { p.accept(listener) })
	t.Cleanup(func() {
		close(p.done)
		listener.Close()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // closed
		}
		p.wg.Go(func() { p.serve(conn) })
	}
}

// serve answers commands until either side fails; the client then sees its connection end, as it would with the TPM's own.
func (p *proxy) serve(conn net.Conn) {
	defer conn.Close()
	ended := make(chan struct{})
	defer close(ended)
	p.wg.Go(func() {
		select {
		case <-p.done:
			conn.Close()
		case <-ended:
		}
	})
	for {
		command, err := readMessage(conn)
		if err != nil || !p.pass() {
			return
		}
		response, err := p.forward(command)
		if err != nil || !p.delay() {
			return
		}
		if p.drops.Add(-1) >= 0 {
			return
		}
		if f := p.filter.Load(); f != nil && *f != nil {
			response = (*f)(command, response)
		}
		if len(response) == 0 {
			return
		}
		if _, err := conn.Write(response); err != nil {
			return
		}
	}
}

func (p *proxy) forward(command []byte) ([]byte, error) {
	p.tpm.Lock() // swtpm listens with a backlog of one
	defer p.tpm.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", p.upstream)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := conn.Write(command); err != nil {
		return nil, err
	}
	return readMessage(conn)
}

func (p *proxy) hang() (release func()) {
	gate := make(chan struct{})
	p.mu.Lock()
	p.gate = gate
	p.mu.Unlock()
	var once sync.Once
	return func() {
		once.Do(func() {
			p.mu.Lock()
			p.gate = nil
			p.mu.Unlock()
			close(gate)
		})
	}
}

// pass waits at the gate; false means that the test is over.
func (p *proxy) pass() bool {
	p.mu.Lock()
	gate := p.gate
	p.mu.Unlock()
	if gate == nil {
		return true
	}
	select {
	case <-gate:
		return true
	case <-p.done:
		return false
	}
}

func (p *proxy) delay() bool {
	d := time.Duration(p.latency.Load())
	if d == 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.done:
		return false
	}
}

// readMessage reads a command or response; both have their whole length at offset 2 (Part 1, 18).
func readMessage(r io.Reader) ([]byte, error) {
	header := make([]byte, 10)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < 10 || size > maxMessage {
		return nil, io.ErrUnexpectedEOF
	}
	message := make([]byte, size)
	copy(message, header)
	_, err := io.ReadFull(r, message[10:])
	return message, err
}

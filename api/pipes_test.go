package api

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
)

// pipes is a network of which nothing is outside of the process: in a bubble (package testing/synctest) time goes on when
// all of server and clients wait. It buffers nothing.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newPipes() *pipes {
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.close(); return nil }

// Addr is what the listener's certificate names.
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// newPipedWorld is a world for a bubble.
func newPipedWorld(t *testing.T, http1 bool, change ...func(*Config)) *world {
	t.Helper()
	p := newPipes()
	w := &world{t: t, dial: p.dial, http1: http1}
	w.start(p, change...)
	return w
}

// eachHTTP runs a test in a bubble for each version of HTTP: their connections, and the deadlines of these, differ.
func eachHTTP(t *testing.T, test func(t *testing.T, http1 bool)) {
	for version, http1 := range map[string]bool{"1.1": true, "2": false} {
		t.Run(version, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, http1) })
		})
	}
}

// ofVersion fails a test that believes that it speaks another HTTP.
func (w *world) ofVersion(r *http.Response) {
	if (r.ProtoMajor == 1) != w.http1 {
		w.t.Errorf("answered in %s", r.Proto)
	}
}

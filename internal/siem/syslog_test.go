package siem

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/ocsf"
)

// collector reads frames. What it does with a connection is a test's.
type collector struct {
	*received
	ln    net.Listener
	serve atomic.Pointer[func(net.Conn)]
	conns sync.WaitGroup
}

func newCollector(t *testing.T, addr string) *collector {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{received: newReceived(), ln: ln}
	c.does(c.reads)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c.conns.Go(func() { (*c.serve.Load())(conn) })
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done; c.conns.Wait() })
	return c
}

func (c *collector) does(f func(net.Conn)) { c.serve.Store(&f) }

// reads takes every frame, and ends its side when the sender does.
func (c *collector) reads(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		m, err := readFrame(r)
		if err != nil {
			return
		}
		c.takes(m)
	}
}

func (c *collector) takes(m []byte) {
	if i := strings.Index(string(m), `"] {`); i > 0 {
		c.take(m[i+3:])
	}
}

func readFrame(r *bufio.Reader) ([]byte, error) {
	head, err := r.ReadString(' ')
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(head, " "), 10, 20)
	if err != nil {
		return nil, err
	}
	m := make([]byte, n)
	_, err = io.ReadFull(r, m)
	return m, err
}

func TestMessage(t *testing.T) {
	e, err := ocsf.Project(`a"b\c]/log`, 7, made(7))
	if err != nil {
		t.Fatal(err)
	}
	m := string(message(e))
	want := `<110>1 2026-03-01T12:00:00.120Z a"b\c] signet - decision [signet@32473 origin="a\"b\\c\]/log" index="7" leaf="` + fmt.Sprintf("%x", e.LeafHash) + `"] ` + string(e.JSON)
	if m != want {
		t.Errorf("%s\nwant\n%s", m, want)
	}
	if f := string(frame(e)); f != strconv.Itoa(len(m))+" "+m {
		t.Error(f)
	}
	for name, want := range map[string]string{
		"signet.test/log": "signet.test", "x": "x", "/log": "-", "grün/log": "-", strings.Repeat("a", 256): "-", "a\u00a0b": "-",
	} {
		if got := hostname(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	for s, want := range map[ocsf.Severity]string{ocsf.Informational: "<110>", ocsf.Low: "<109>", ocsf.Medium: "<108>", ocsf.High: "<106>"} {
		if got := string(message(ocsf.Event{Severity: s})); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", s, got)
		}
	}
}

func (c *collector) sends(t *testing.T, n uint64) error {
	t.Helper()
	s, err := New(config(t, "syslog+tcp://"+c.ln.Addr().String(), grown(n)))
	if err != nil {
		t.Fatal(err)
	}
	s.limit = maxBatch
	events, err := s.read(t.Context(), 0, n)
	if err != nil {
		t.Fatal(err)
	}
	return s.sink.send(t.Context(), events)
}

// Only what was read to its end counts as sent, whatever the collector's system took in.
func TestEndIsTheAcknowledgement(t *testing.T) {
	c := newCollector(t, "127.0.0.1:0")
	if err := c.sends(t, 1000); err != nil {
		t.Fatal(err)
	}
	if n := c.has(1000); n != 1000 {
		t.Errorf("%d of 1000 were read", n)
	}
	for name, f := range map[string]func(net.Conn){
		"reads nothing and closes": func(conn net.Conn) { waitReadable(conn); _ = conn.Close() },
		"reads the first and closes": func(conn net.Conn) {
			_, _ = readFrame(bufio.NewReaderSize(conn, 16))
			_ = conn.Close()
		},
		"reads all but the last byte": func(conn net.Conn) {
			_, _ = io.CopyN(io.Discard, conn, c.length(t, 1000)-1)
			waitReadable(conn)
			_ = conn.Close()
		},
		"ends its side at once, then is killed": func(conn net.Conn) {
			tcp, ok := conn.(*net.TCPConn)
			if !ok {
				return
			}
			_ = tcp.CloseWrite()
			_, _ = io.CopyN(io.Discard, conn, 10)
			_ = tcp.SetLinger(0)
			_ = tcp.Close()
		},
		"resets": func(conn net.Conn) {
			tcp, ok := conn.(*net.TCPConn)
			if !ok {
				return
			}
			_, _ = io.CopyN(io.Discard, conn, c.length(t, 1000))
			_ = tcp.SetLinger(0)
			_ = tcp.Close()
		},
		"talks": func(conn net.Conn) {
			_, _ = conn.Write([]byte("250 OK\r\n"))
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		},
	} {
		c.does(f)
		if err := c.sends(t, 1000); err == nil {
			t.Errorf("%s: counts as sent", name)
		}
	}
}

// An end that came before the sender's own tells nothing, whether the rest is reset or lies unread in the collector's system.
func TestEarlyEnd(t *testing.T) {
	c := newCollector(t, "127.0.0.1:0")
	held := make(chan struct{})
	defer close(held)
	for name, f := range map[string]func(*net.TCPConn){
		"closes":      func(conn *net.TCPConn) { _ = conn.Close() },
		"half closes": func(conn *net.TCPConn) { _ = conn.CloseWrite(); <-held },
	} {
		c.does(func(conn net.Conn) {
			if tcp, ok := conn.(*net.TCPConn); ok {
				f(tcp)
			}
			_ = conn.Close()
		})
		dial := func() *net.TCPConn {
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", c.ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			waitReadable(conn) // its end is here
			tcp, ok := conn.(*net.TCPConn)
			if !ok {
				t.Fatal("not TCP")
			}
			return tcp
		}
		target, err := ParseTarget("syslog+tcp://"+c.ln.Addr().String(), false)
		if err != nil {
			t.Fatal(err)
		}
		e, err := ocsf.Project(origin, 0, made(0))
		if err != nil {
			t.Fatal(err)
		}
		if err := (&syslog{target: target}).over(t.Context(), dial(), []ocsf.Event{e}); err == nil {
			t.Errorf("%s: counts as sent", name)
		}
		if name != "closes" {
			continue
		}
		// As if it had ended just after it was asked whether it had.
		tcp := dial()
		if _, err := tcp.Write(frame(e)); err != nil {
			t.Fatal(err)
		}
		_ = tcp.CloseWrite()
		if err := confirm(t.Context(), tcp, tcp); err == nil {
			t.Errorf("%s, and what came later was reset: counts as sent", name)
		}
	}
}

// length is that of all n frames.
func (*collector) length(t *testing.T, n uint64) (size int64) {
	for i := range n {
		e, err := ocsf.Project(origin, i, made(i))
		if err != nil {
			t.Error(err)
		}
		size += int64(len(frame(e)))
	}
	return size
}

// waitReadable returns when there is something to read, without reading it.
func waitReadable(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
		return n > 0 || !errors.Is(err, syscall.EAGAIN)
	})
}

// Collectors that fail in whatever way lose nothing: everything comes, in order, some of it more than once.
func TestSyslogThroughFailures(t *testing.T) {
	c := newCollector(t, "127.0.0.1:0")
	var conns atomic.Int64
	c.does(func(conn net.Conn) {
		n := conns.Add(1)
		if n%2 == 0 {
			c.reads(conn)
			return
		}
		r := bufio.NewReader(conn)
		for range 5 * n {
			if m, err := readFrame(r); err == nil {
				c.takes(m)
			}
		}
		_ = conn.Close()
	})
	s, stop := runs(t, config(t, "syslog+tcp://"+c.ln.Addr().String(), grown(1200)))
	c.waits(t, 0, 1200)
	stop()
	c.inOrder(t, 0)
	if s.Status().Failures == 0 {
		t.Error("nothing failed")
	}
}

// A collector that takes the connection and never reads: the log goes on as if it was not there.
func TestSinkThatNeverReads(t *testing.T) {
	c := newCollector(t, "127.0.0.1:0")
	held := make(chan struct{})
	reached := make(chan struct{}, 1)
	c.does(func(conn net.Conn) {
		reached <- struct{}{}
		<-held
		_ = conn.Close()
	})
	defer close(held)
	l := realLog(t)
	appends(t, l, 1100)
	s, stop := runs(t, config(t, "syslog+tcp://"+c.ln.Addr().String(), l))
	<-reached
	appends(t, l, 1100)
	if st := s.Status(); st.Next != 0 || st.Lag < 2200 {
		t.Errorf("%+v", st)
	}
	start := time.Now()
	stop() // and does not hold back the end
	if took := time.Since(start); took > within/2 {
		t.Errorf("ending took %s", took)
	}
}

func TestSyslogTLS(t *testing.T) {
	p := newPKI(t)
	c := newCollector(t, "127.0.0.1:0")
	server := &tls.Config{Certificates: []tls.Certificate{p.pair(t, "server")}, ClientCAs: p.pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
	c.does(func(conn net.Conn) { c.reads(tls.Server(conn, server)) })
	sends := func(change func(*Config)) error {
		cfg := config(t, "syslog+tls://"+c.ln.Addr().String(), grown(300))
		cfg.Roots, cfg.CertFile, cfg.KeyFile = p.pool, p.file("client.pem"), p.file("client.key")
		change(&cfg)
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.limit = maxBatch
		events, err := s.read(t.Context(), 0, 300)
		if err != nil {
			t.Fatal(err)
		}
		return s.sink.send(t.Context(), events)
	}
	for name, change := range map[string]func(*Config){
		"another root":          func(cfg *Config) { cfg.Roots = newPKI(t).pool },
		"no client certificate": func(cfg *Config) { cfg.CertFile = "" },
		"another client":        func(cfg *Config) { cfg.CertFile, cfg.KeyFile = p.file("other.pem"), p.file("other.key") },
		"no such file":          func(cfg *Config) { cfg.CertFile = p.file("nothing") },
		"another name":          func(cfg *Config) { cfg.Target.name = "siem.example" },
	} {
		if err := sends(change); err == nil || c.has(300) != 0 {
			t.Errorf("%s: %v, %d came", name, err, c.has(300))
		}
	}
	if err := sends(func(*Config) {}); err != nil || c.has(300) != 300 {
		t.Errorf("%v, %d came", err, c.has(300))
	}
}

// The header is what the grammar of RFC 5424 §6 wants, as far as a regular expression can say it.
func FuzzMessage(f *testing.F) {
	header := regexp.MustCompile(`^<\d{1,3}>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [!-~]{1,255} signet - [a-z_]{1,32} \[signet@32473 origin="(?:[^"\\\]]|\\["\\\]])*" index="\d+" leaf="[0-9a-f]{64}"\] \{[ -~]*\}$`)
	f.Add(origin, uint64(7))
	f.Add(`"\]`, uint64(1)<<63)
	f.Fuzz(func(t *testing.T, name string, index uint64) {
		e, err := ocsf.Project(name, index, made(index))
		if err != nil {
			t.Fatal(err)
		}
		if m := message(e); !header.Match(m) {
			t.Errorf("%q", m)
		}
	})
}

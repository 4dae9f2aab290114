package siem

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-pki/signet/audit/ocsf"
	"github.com/signet-pki/signet/audit/record"
)

// syslog sends each batch on a connection of its own. Syslog has no acknowledgement, but the end of a connection is one: see
// confirm.
type syslog struct {
	target Target
	tls    *tls.Config
	dialer net.Dialer
}

func newSyslog(c Config) *syslog {
	return &syslog{target: c.Target, tls: c.tls(), dialer: net.Dialer{Timeout: dialIn}}
}

// A connection each time: not for every entry.
func (*syslog) rest() time.Duration { return 2 * time.Second }

func (s *syslog) send(ctx context.Context, events []ocsf.Event) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	conn, err := s.dialer.DialContext(ctx, "tcp", s.target.host)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // what it could say is what confirm asked
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return errors.New("not a TCP connection")
	}
	// The past ends whatever is under way.
	stop := context.AfterFunc(ctx, func() { _ = tcp.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err = s.over(ctx, tcp, events)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// half is a connection of which one side can end.
type half interface {
	io.ReadWriter
	CloseWrite() error
}

func (s *syslog) over(ctx context.Context, tcp *net.TCPConn, events []ocsf.Event) error {
	var conn half = tcp
	if !s.target.plain {
		secured := tls.Client(tcp, s.tls)
		if err := secured.HandshakeContext(ctx); err != nil {
			return err
		}
		conn = secured
	}
	w := bufio.NewWriterSize(conn, 64<<10)
	for _, e := range events {
		if _, err := w.Write(frame(e)); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := notEnded(tcp); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil { // TLS: close_notify
		return err
	}
	if !s.target.plain {
		if err := tcp.CloseWrite(); err != nil {
			return err
		}
	}
	return confirm(ctx, conn, tcp)
}

// notEnded refuses a connection whose other side has ended already: that end is no answer to ours.
func notEnded(tcp *net.TCPConn) error {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var peeked error
	err = raw.Control(func(fd uintptr) {
		n, _, peeked = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	switch {
	case err != nil:
		return err
	case errors.Is(peeked, unix.EAGAIN), peeked == nil && n > 0: // TLS has things to say
		return nil
	case peeked != nil:
		return peeked
	}
	return errors.New("the collector ended the connection")
}

// confirm returns nil when the collector has read everything: it ended its side (a system resets a connection that is closed
// with something unread), its system acknowledged every byte (one that was closed before the last ones came resets it for them),
// and there was no reset.
func confirm(ctx context.Context, conn io.Reader, tcp *net.TCPConn) error {
	switch n, err := conn.Read(make([]byte, 1)); {
	case n > 0:
		return errors.New("the collector talks, which syslog does not")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("the end is not confirmed: %w", err)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := unacknowledged(raw)
		if err != nil || left == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// unacknowledged is the number of bytes that the other side's system has not acknowledged. The error of a reset comes after
// it: a reset empties the queue.
func unacknowledged(raw syscall.RawConn) (n int, err error) {
	ctl := raw.Control(func(fd uintptr) {
		if n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err != nil {
			return
		}
		var code int
		if code, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && code != 0 {
			err = unix.Errno(code)
		}
	})
	return n, errors.Join(ctl, err)
}

// frame is the message with its length in front (RFC 5425 §4.3).
func frame(e ocsf.Event) []byte {
	m := message(e)
	return append(append(strconv.AppendInt(make([]byte, 0, len(m)+8), int64(len(m)), 10), ' '), m...)
}

const facility = 13 // log audit (RFC 5424 §6.2.1)

var priorities = map[ocsf.Severity]int{ocsf.Informational: 6, ocsf.Low: 5, ocsf.Medium: 4, ocsf.High: 2}

// escape is RFC 5424 §6.3.3.
var escape = strings.NewReplacer(`"`, `\"`, `\`, `\\`, `]`, `\]`)

func message(e ocsf.Event) []byte {
	b := make([]byte, 0, len(e.JSON)+512)
	b = fmt.Appendf(b, `<%d>1 %s %s signet - %s [signet@32473 origin="%s" index="%d" leaf="%s"] `, facility*8+priorities[e.Severity],
		e.Time.UTC().Format(record.TimeLayout), hostname(e.Origin), e.Type, escape.Replace(e.Origin), e.Index, hex.EncodeToString(e.LeafHash[:]))
	return append(b, e.JSON...)
}

// hostname is the origin's first part, if it can be one (RFC 5424 §6: PRINTUSASCII).
func hostname(origin string) string {
	name, _, _ := strings.Cut(origin, "/")
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' {
			return "-"
		}
	}
	if name == "" || len(name) > 255 {
		return "-"
	}
	return name
}

package siem

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// daemon is rsyslog, as a stock collector: its own parser, framing and TLS.
type daemon struct {
	*received
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	read int64 // of its output
	torn int
}

// rsyslogConf has a queue that hands on before the next is read: what rsyslog does with messages that it has read is its own affair.
const rsyslogConf = `global(workDirectory=%[1]q maxMessageSize="512k"
  defaultNetstreamDriverCAFile=%[2]q defaultNetstreamDriverCertFile=%[3]q defaultNetstreamDriverKeyFile=%[4]q)
main_queue(queue.type="Direct")
module(load="imtcp" %[5]s)
input(type="imtcp" address="127.0.0.1" port="%[6]d" listenPortFileName=%[7]q)
template(name="line" type="list") {
  property(name="pri") constant(value=" ") property(name="timereported" dateFormat="rfc3339") constant(value=" ") property(name="hostname") constant(value=" ")
  property(name="app-name") constant(value=" ") property(name="msgid") constant(value=" ") property(name="structured-data") constant(value="\t")
  property(name="msg") constant(value="\n")
}
action(type="omfile" file=%[8]q template="line" flushOnTXEnd="on")
`

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	return &daemon{received: newReceived(), t: t, dir: t.TempDir()}
}

func (d *daemon) file(name string) string { return filepath.Join(d.dir, name) }

// start returns the address. It is run as a copy: a distribution may confine the binary at its own path to its own files.
func (d *daemon) start(p *pki, driver string, port int) string {
	d.t.Helper()
	conf := fmt.Sprintf(rsyslogConf, d.dir, p.file("ca.pem"), p.file("server.pem"), p.file("server.key"), driver, port, d.file("port"), d.file("out"))
	binary, err := os.ReadFile("/usr/sbin/rsyslogd")
	if err != nil {
		d.t.Fatal(err)
	}
	for name, text := range map[string][]byte{"rsyslog.conf": []byte(conf), "rsyslogd": binary} {
		_ = os.Remove(d.file(name)) // a copy that still runs would be busy
		if err := os.WriteFile(d.file(name), text, 0o700); err != nil {
			d.t.Fatal(err)
		}
	}
	_ = os.Remove(d.file("port"))
	d.cmd = exec.CommandContext(context.Background(), d.file("rsyslogd"), "-n", "-i", "NONE", "-f", d.file("rsyslog.conf"))
	out := new(lines)
	d.cmd.Stdout, d.cmd.Stderr = out, out
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	cmd := d.cmd
	d.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if d.t.Failed() {
			d.t.Log(out)
		}
	})
	if port != 0 {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	var text []byte
	until(d.t, "rsyslog listens", func() bool {
		text, _ = os.ReadFile(d.file("port"))
		return len(text) > 0
	})
	return net.JoinHostPort("127.0.0.1", string(bytes.TrimSpace(text)))
}

func (d *daemon) kill() {
	d.t.Helper()
	if err := d.cmd.Process.Kill(); err != nil {
		d.t.Fatal(err)
	}
	_ = d.cmd.Wait()
}

// wrote takes what rsyslog wrote since the last time. A line that it was killed in is none.
func (d *daemon) wrote() {
	d.t.Helper()
	f, err := os.Open(d.file("out"))
	if err != nil {
		return
	}
	defer f.Close()
	if _, err := f.Seek(d.read, io.SeekStart); err != nil {
		d.t.Fatal(err)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		d.t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			return
		}
		d.read += int64(len(line))
		head, event, ok := bytes.Cut(line, []byte("\t"))
		var v struct {
			Unmapped struct {
				Index uint64 `json:"index"`
				Leaf  string `json:"leaf_hash"`
			} `json:"unmapped"`
		}
		if !ok || json.Unmarshal(event, &v) != nil {
			d.torn++
			continue
		}
		want := fmt.Sprintf(`log audit.info<110> 2026-03-01T12:00:00.120Z signet.test signet decision [signet@32473 origin="signet.test/log" index="%d" leaf="%s"]`,
			v.Unmapped.Index, v.Unmapped.Leaf)
		if _, got, _ := bytes.Cut(head, []byte(" ")); string(got) != want[len("log audit.info<110> "):] {
			d.t.Errorf("rsyslog read the header as\n%s\nwant\n%s", got, want)
		}
		d.take(event)
	}
}

// Stock rsyslog takes the events, with and without TLS. Killed in the middle and started again, it has them all.
func TestRsyslog(t *testing.T) {
	p := newPKI(t)
	for name, c := range map[string]struct{ scheme, driver string }{
		"tcp": {"syslog+tcp", ""},
		"tls": {"syslog+tls", `streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/name" permittedPeer=["client"]`},
	} {
		t.Run(name, func(t *testing.T) {
			const n = 1500
			d := newDaemon(t)
			addr := d.start(p, c.driver, 0)
			cfg := config(t, c.scheme+"://"+addr, grown(n))
			cfg.Roots, cfg.CertFile, cfg.KeyFile = p.pool, p.file("client.pem"), p.file("client.key")
			s, stop := runs(t, cfg)
			until(t, "the first come", func() bool { d.wrote(); return d.has(n) > 100 })
			d.kill()
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				t.Fatal(err)
			}
			number, err := strconv.Atoi(port)
			if err != nil {
				t.Fatal(err)
			}
			d.start(p, c.driver, number)
			until(t, "all are confirmed", func() bool { return s.Status().Lag == 0 })
			stop()
			d.wrote()
			d.waits(t, 0, n)
			d.inOrder(t, 0)
			if d.torn > 1 {
				t.Errorf("%d lines are torn", d.torn)
			}
		})
	}
}

package softhsmtest

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// process is a program that runs beside the test, at most as long as it.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    output
	exited chan struct{}
}

func background(t testing.TB, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.CommandContext(t.Context(), name, args...), exited: make(chan struct{})} // #nosec G204 -- the tests' own arguments
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.WaitDelay = &p.out, &p.out, 5*time.Second
	var err error
	p.in, err = p.cmd.StdinPipe()
	must(t, err)
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%v: apt-get install %s", err, install[name])
	}
	go func() { // joined by the cleanup
		_ = p.cmd.Wait() // the state says how it ended
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.exited
	})
	return p
}

// says waits for a text.
func (p *process) says(text string) {
	p.t.Helper()
	within(p.t, 20*time.Second, filepath.Base(p.cmd.Path)+" to say "+text, func() error {
		if !strings.Contains(p.out.String(), text) {
			return fmt.Errorf("it says %q", p.out.String())
		}
		return nil
	})
}

func (p *process) wait() int {
	p.t.Helper()
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		p.t.Fatalf("%s does not end", p.cmd.Path)
	}
	return p.cmd.ProcessState.ExitCode()
}

// nginx is one whose own certificate is the parent's, and which wants a client certificate of the trust domain.
type nginx struct{ address string }

// One process alone: a master that is killed leaves its workers behind.
const nginxConfig = `daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 64; }
http {
	access_log off;
	client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;
	server {
		listen %s ssl;
		ssl_protocols TLSv1.3;
		ssl_session_tickets off;
		ssl_certificate parent-chain.pem;
		ssl_certificate_key parent.key;
		ssl_client_certificate root.pem;
		ssl_verify_client on;
		ssl_verify_depth 2;
		location / { return 200 "$ssl_client_verify $ssl_client_s_dn $ssl_client_escaped_cert"; }
	}
}
`

// startNginx runs nginx as whoever runs the test, on a free port, below the peers' directory.
func startNginx(t *testing.T, p *peers) *nginx {
	t.Helper()
	for range 5 { // another process may take the port first
		ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		must(t, err)
		n := &nginx{ln.Addr().String()}
		must(t, ln.Close())
		must(t, os.WriteFile(p.path("nginx.conf"), fmt.Appendf(nil, nginxConfig, n.address), 0o600))
		// -e: without it Debian's nginx writes to /var/log first.
		run := background(t, "/usr/sbin/nginx", "-p", p.dir, "-c", p.path("nginx.conf"), "-e", "stderr")
		if n.answers(t, run) {
			return n
		}
	}
	t.Fatal("nginx does not start")
	return nil
}

// answers says whether it listens, or has ended.
func (n *nginx) answers(t *testing.T, run *process) (up bool) {
	t.Helper()
	within(t, 20*time.Second, "nginx", func() error {
		select {
		case <-run.exited:
			t.Logf("nginx: %s", run.out.String())
			return nil
		default:
		}
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", n.address)
		if err != nil {
			return err
		}
		up = true
		return conn.Close()
	})
	return up
}

// curl asks nginx as an agent. The server is an agent too, which has no name that curl could expect: its key is pinned.
func (n *nginx) curl(t *testing.T, p *peers, as string, more ...string) (string, int) {
	t.Helper()
	pin := sha256.Sum256(p.parent.cert.Leaf.RawSubjectPublicKeyInfo)
	args := []string{
		"--silent", "--show-error", "--max-time", "20", "--cacert", "root.pem", "--insecure", "--pinnedpubkey", "sha256//" + base64.StdEncoding.EncodeToString(pin[:]),
	}
	if as != "" {
		args = append(args, "--cert", as+"-chain.pem", "--key", as+".key")
	}
	return command(t, p.dir, nil, "curl", append(append(args, more...), "https://"+n.address+"/")...)
}

// nginxAndClients: nginx verifies agents, and is one itself, to curl, gnutls-cli and go-spiffe.
func nginxAndClients(t *testing.T, p *peers) {
	n := startNginx(t, p)
	out, code := n.curl(t, p, "child")
	if code != 0 || !strings.HasPrefix(out, "SUCCESS CN="+p.child.id+" ") {
		t.Fatalf("curl: exit %d: %s", code, out)
	}
	through(t, out, p.child.cert.Leaf)
	if out, code := n.curl(t, p, ""); code != 0 || !strings.Contains(out, "No required SSL certificate was sent") {
		t.Errorf("curl without a certificate: exit %d: %s", code, out)
	}
	q := p.question()
	p.forged(&q, func(f *forgery) { f.issuer, f.signer = rogueCA(t, f.issuer) })
	p.write("rogue-chain.pem", strings.Join(pems(q.certs), ""))
	p.save("rogue", p.child.cert)
	p.write("rogue-chain.pem", strings.Join(pems(q.certs), ""))
	if out, code := n.curl(t, p, "rogue"); code != 0 || !strings.Contains(out, "The SSL certificate error") {
		t.Errorf("curl with another CA's certificate: exit %d: %s", code, out)
	}
	namelessServer(t, n, p)
	n.goThroughNginx(t, p)
}

// namelessServer: an agent's certificate has a SPIFFE ID and no host name. Clients that expect a host refuse it for that alone; its
// path they accept.
func namelessServer(t *testing.T, n *nginx, p *peers) {
	strict := []string{"--silent", "--show-error", "--max-time", "20", "--cert", "child-chain.pem", "--key", "child.key", "https://" + n.address + "/"}
	out, code := command(t, p.dir, nil, "curl", append([]string{"--cacert", "root.pem"}, strict...)...)
	if code != 60 || !strings.Contains(out, "does not match target host name") {
		t.Errorf("curl: exit %d: %s", code, out)
	}
	p.save("self", p.child.cert)
	out, code = command(t, p.dir, nil, "curl", append([]string{"--cacert", "self.pem"}, strict...)...)
	if code != 60 || !strings.Contains(out, "unable to get") {
		t.Errorf("curl with another root: exit %d: %s", code, out)
	}
	host, port, err := net.SplitHostPort(n.address)
	must(t, err)
	ask := func(root string, more ...string) (string, int) {
		// gnutls-cli takes commands from its standard input until the server closes.
		script := `printf 'GET / HTTP/1.0\r\n\r\n' | gnutls-cli "$@"`
		args := append([]string{"-c", script, "gnutls-cli", "--x509cafile", root, "--x509certfile", "child-chain.pem", "--x509keyfile", "child.key", "--port", port}, more...)
		return command(t, p.dir, nil, "sh", append(args, host)...)
	}
	out, code = ask("root.pem")
	if code == 0 || !strings.Contains(out, "The name in the certificate does not match") || strings.Contains(out, "issuer is unknown") {
		t.Errorf("gnutls-cli: exit %d: %s", code, out)
	}
	out, code = ask("self.pem")
	if code == 0 || !strings.Contains(out, "issuer is unknown") {
		t.Errorf("gnutls-cli with another root: exit %d: %s", code, out)
	}
	out, code = ask("root.pem", "--insecure")
	if code != 0 || !strings.Contains(out, "SUCCESS CN="+p.child.id) {
		t.Errorf("gnutls-cli, its name aside: exit %d: %s", code, out)
	}
}

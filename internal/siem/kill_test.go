package siem

import (
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"
)

const (
	childURL    = "SIGNET_SIEM_CHILD_URL"
	childCursor = "SIGNET_SIEM_CHILD_CURSOR"
	childSize   = 2500
)

// TestChild is no test of its own: TestKill starts it.
func TestChild(t *testing.T) {
	if os.Getenv(childURL) == "" {
		return
	}
	c := config(t, os.Getenv(childURL), grown(childSize))
	c.Cursor = os.Getenv(childCursor)
	s, stop := runs(t, c)
	until(t, "all are sent", func() bool { return s.Status().Lag == 0 })
	stop()
}

// A sender that is killed again and again loses nothing: what it had not saved it sends once more.
func TestKill(t *testing.T) {
	r := newReceiver(t, (*httptest.Server).Start)
	c := newCollector(t, "127.0.0.1:0")
	for name, k := range map[string]struct {
		url string
		got *received
	}{
		"otlp":   {r.http.URL + "/v1/logs", r.received},
		"syslog": {"syslog+tcp://" + c.ln.Addr().String(), c.received},
	} {
		t.Run(name, func(t *testing.T) {
			cursor := config(t, k.url, grown(0)).Cursor
			child := func() *exec.Cmd {
				cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
				cmd.Env = append(os.Environ(), childURL+"="+k.url, childCursor+"="+cursor)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				return cmd
			}
			for round := range uint64(3) {
				cmd := child()
				until(t, "some more came", func() bool { return k.got.has(childSize) > 400*round })
				if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
					t.Fatal(err)
				}
				_ = cmd.Wait()
			}
			if err := child().Wait(); err != nil {
				t.Fatal(err)
			}
			k.got.waits(t, 0, childSize)
			k.got.inOrder(t, 0)
		})
	}
}

package swtpm

import (
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// readClock is TPM2_ReadClock; its response is 10 bytes of header and 25 of TPMS_TIME_INFO.
var readClock = []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x81}

func ask(t *testing.T, rig *TPM, patience time.Duration) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(rig.Path(), "unix:"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := conn.Write(readClock); err != nil {
		return nil, err
	}
	return readMessage(conn)
}

func TestFaults(t *testing.T) {
	rig := New(t)
	works := func(when string) {
		t.Helper()
		if response, err := ask(t, rig, 10*time.Second); err != nil || len(response) != 35 {
			t.Fatalf("%s: %x, %v", when, response, err)
		}
	}
	fails := func(when string) {
		t.Helper()
		if response, err := ask(t, rig, 200*time.Millisecond); err == nil {
			t.Fatalf("%s: %x", when, response)
		}
	}
	works("at first")

	rig.SetLatency(300 * time.Millisecond)
	fails("slow")
	rig.SetLatency(0)
	works("fast again")

	release := rig.Hang()
	fails("hung")
	release()
	works("released")

	rig.DropResponses(1)
	fails("dropped")
	works("after the dropped one")

	rig.Intercept(func(_, response []byte) []byte { return response[:0] })
	fails("intercepted")
	rig.Intercept(nil)
	works("no longer intercepted")

	rig.Kill()
	fails("dead")
	rig.Restart()
	works("restarted")
	rig.Stop()
	fails("stopped")
	rig.Restart()
	works("restarted again")
}

func TestToolsReachIt(t *testing.T) {
	rig := New(t)
	out, err := exec.CommandContext(t.Context(), "tpm2_getcap", "-T", rig.TCTI(), "properties-fixed").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "IBM") {
		t.Errorf("tpm2_getcap (apt-get install tpm2-tools): %v\n%s", err, out)
	}
	roots, intermediates := rig.ManufacturerCA()
	if roots == nil || intermediates == nil {
		t.Error("no CA")
	}
}

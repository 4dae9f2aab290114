package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	v1 "github.com/signet-pki/signet/api/v1"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata/script")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"signet": main})
}

type fakeKey struct{}

// TestScripts runs the command as people do, against an appliance that says what was asked of it.
//
//	sent                    prints what was sent since the last time
//	answer STATUS FILE      the next request is answered with that
//	pair CERT KEY           the certificate is for the key
//	mode FILE PERM          the file has these permissions, octal
//	status N COMMAND…       the command ends with this exit status
//	svid SOCKET [CERT]      prints whose certificate the Workload API gives, once it gives one, or this one
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			f, err := startFake()
			if err != nil {
				return err
			}
			env.Defer(f.srv.Close)
			env.Values[fakeKey{}] = f
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each run of the command ends a second later
			env.Setenv("TASK", task)
			env.Setenv("GRANT", grant)
			env.Setenv("PARENT", parent)
			env.Setenv("CHILD", "01890a5d-ac96-774b-bcce-b302099a8004")
			return f.files(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"sent": sent, "answer": answer, "pair": pair, "mode": mode, "status": exitStatus, "svid": svid,
		},
	})
}

func theFake(ts *testscript.TestScript) *fake {
	f, ok := ts.Value(fakeKey{}).(*fake)
	if !ok {
		ts.Fatalf("no fake")
	}
	return f
}

// sent prints the requests since the last time. Canned answers that nobody came for go: a request with a short patience
// may never have got as far as the server.
func sent(ts *testscript.TestScript, _ bool, _ []string) {
	f := theFake(ts)
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := ts.Stdout().Write(f.log.Bytes())
	ts.Check(err)
	f.log.Reset()
	f.answers = nil
}

func answer(ts *testscript.TestScript, _ bool, args []string) {
	status, err := strconv.Atoi(args[0])
	ts.Check(err)
	f := theFake(ts)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers = append(f.answers, canned{status, []byte(ts.ReadFile(args[1]))})
}

func pair(ts *testscript.TestScript, _ bool, args []string) {
	_, err := tls.LoadX509KeyPair(ts.MkAbs(args[0]), ts.MkAbs(args[1]))
	ts.Check(err)
}

func mode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.ParseUint(args[1], 8, 32)
	ts.Check(err)
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if info.Mode().Perm() != fs.FileMode(want) {
		ts.Fatalf("%s has mode %o", args[0], info.Mode().Perm())
	}
}

func exitStatus(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	code := 0
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit status %d", code)
	}
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)
	for text, want := range map[string]string{
		"+90m": "2026-03-04T06:36:07Z", "2026-03-04T08:00:00+02:00": "2026-03-04T06:00:00Z",
		"": "", "+": "", "+0s": "", "+-1h": "", "tomorrow": "", "2026-03-04": "",
	} {
		var m moment
		err := m.UnmarshalText([]byte(text))
		if (err != nil) != (want == "") || err == nil && m.from(now).Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %v, %v", text, m.from(now), err)
		}
	}
	if !(moment{}).from(now).IsZero() {
		t.Error("what was not given is some time")
	}
}

// Between the look and the write somebody may have been quicker.
func TestWriteNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := writeBytes(path, 0o600, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := writeBytes(path, 0o600, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "first" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[2J\u202eé\n"); got != "a\ufffd[2J\ufffdé\ufffd" {
		t.Errorf("%q", got)
	}
}

// A failed check that is required says so; a passed one is left out of refusals.
func TestCheckRows(t *testing.T) {
	got := checkRows(map[string]v1.Check{"b": {Status: "fail", Code: "c", Detail: "d", Required: true}, "a": {Status: "pass"}, "c": {Status: "not_evaluated"}})
	text, err := json.Marshal(got)
	if len(got) != 1 || got[0].value != "fail c: d (required)" || err != nil {
		t.Errorf("%s %v", text, got)
	}
}

package durable

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The test binary runs itself as the process to be killed: childEnv names what it does, dirEnv where.
const (
	childEnv = "DURABLE_TEST_CHILD"
	dirEnv   = "DURABLE_TEST_DIR"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(childEnv); what != "" {
		if err := child(what, os.Getenv(dirEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child works until it is killed, and prints each thing that it was told is durable.
func child(what, dir string) error {
	switch what {
	case "write":
		for i := 1; ; i++ {
			if err := WriteFile(filepath.Join(dir, "f"), content(i), 0o600); err != nil {
				return err
			}
			fmt.Println(i)
		}
	case "append":
		a, err := CreateAppend(filepath.Join(dir, "log"), 0o600)
		if err != nil {
			return err
		}
		for i := 1; ; i++ {
			if err := a.Append(fmt.Append(nil, i)); err != nil {
				return err
			}
			fmt.Println(i)
		}
	case "lock":
		if _, err := Lock(filepath.Join(dir, "lock")); err != nil {
			return err
		}
		fmt.Println("locked")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	return errors.New("unknown child")
}

// content is recognisable as whole: a number, repeated.
func content(i int) []byte {
	return []byte(strings.Repeat(fmt.Sprintf("%09d\n", i), 20_000))
}

// runAndKill starts the child, reads lines of its output and kills it with SIGKILL in the middle of its work. It returns
// the last acknowledged line, including those printed up to the kill.
func runAndKill(t *testing.T, what, dir string, lines int) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+what, dirEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var last string
	scanner := bufio.NewScanner(out)
	for n := 1; scanner.Scan(); n++ {
		last = scanner.Text()
		if n == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || last == "" {
		t.Fatalf("the child was not killed at work: err %v, last line %q", err, last)
	}
	return last
}

func TestKilledWriteFile(t *testing.T) {
	dir := t.TempDir()
	for round := range 8 {
		last := runAndKill(t, "write", dir, 2+round)
		got, err := os.ReadFile(filepath.Join(dir, "f"))
		if err != nil {
			t.Fatal(err)
		}
		acked, err := strconv.Atoi(last)
		if err != nil {
			t.Fatal(err)
		}
		found, err := strconv.Atoi(string(got[:9]))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, content(found)) || found < acked || found > acked+1 {
			t.Fatalf("acknowledged %d, found %d bytes of %d", acked, len(got), found)
		}
	}
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	wantNoTemps(t, dir)
}

func TestKilledAppend(t *testing.T) {
	for round := range 4 {
		dir := t.TempDir()
		last := runAndKill(t, "append", dir, 5+round)
		path := filepath.Join(dir, "log")
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// What was not acknowledged may be torn.
		if err := os.Truncate(path, int64(bytes.LastIndexByte(got, '\n')+1)); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains("\n"+string(got), "\n"+last+"\n") {
			t.Fatalf("acknowledged line %s is gone", last)
		}
		again(t, path, "after the kill")
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Lock(path)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("second lock: %v, want ErrLocked with this pid", err)
	}
	unlock()
	unlock()
	unlock, err = Lock(path)
	if err != nil {
		t.Fatalf("after unlock: %v", err)
	}
	unlock()
}

func TestLockEndsWithItsProcess(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lock")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=lock", dirEnv+"="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "locked\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
	_, err = Lock(path)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", cmd.Process.Pid)) {
		t.Errorf("lock held by the child: %v, want ErrLocked with its pid", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the child was not killed")
	}
	unlock, err := Lock(path)
	if err != nil {
		t.Fatalf("after the holder's death: %v", err)
	}
	unlock()
}

package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	a, err := CreateAppend(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, line := range []string{"a", "bb", "", "dddd"} {
		wg.Go(func() {
			if err := a.Append([]byte(line)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := a.Append([]byte("two\nlines")); err == nil {
		t.Error("a line with a line feed was accepted")
	}
	if err := errors.Join(a.Close(), a.Close()); err != nil {
		t.Fatal(err)
	}
	if err := a.Append([]byte("late")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	again(t, path, "last")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.SplitAfter(string(raw), "\n")
	slices.Sort(got[:4])
	if want := []string{"\n", "a\n", "bb\n", "dddd\n", "last\n", ""}; !slices.Equal(got, want) {
		t.Errorf("file holds %q, want %q", got, want)
	}
}

func again(t *testing.T, path, line string) {
	t.Helper()
	a, err := OpenAppend(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.Append([]byte(line)), a.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestAppendLeavesTheCallersArray(t *testing.T) {
	a, err := CreateAppend(filepath.Join(t.TempDir(), "log"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	buf := []byte("abXY")
	if err := a.Append(buf[:2]); err != nil || string(buf) != "abXY" {
		t.Errorf("buffer is now %q, err %v", buf, err)
	}
}

func TestAppendOpens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if _, err := OpenAppend(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open of a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("whole\ntor"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateAppend(path, 0o600); !errors.Is(err, ErrExists) {
		t.Errorf("create over a file: %v", err)
	}
	if _, err := OpenAppend(path); !errors.Is(err, ErrTorn) {
		t.Errorf("open of a torn file: %v", err)
	}
	wantFile(t, path, "whole\ntor", 0o600)
}

// brokenTail fails where it is told to, once, and works after that, as a device does that lost the dirty pages.
type brokenTail struct {
	n        int // bytes taken by the first write
	writeErr error
	syncErr  error
	writes   int
	syncs    int
}

func (b *brokenTail) Write(p []byte) (int, error) {
	b.writes++
	if b.writes > 1 || b.n < 0 {
		return len(p), nil
	}
	return b.n, b.writeErr
}

func (b *brokenTail) Datasync() error {
	b.syncs++
	if b.syncs > 1 {
		return nil
	}
	return b.syncErr
}

func (b *brokenTail) Close() error { return nil }

func TestAppendIsPoisonedByTheFirstFailure(t *testing.T) {
	for _, tc := range []struct {
		name         string
		tail         brokenTail
		want         error
		writes, sync int
	}{
		{"fsync", brokenTail{n: -1, syncErr: errInjected}, errInjected, 1, 1},
		{"write", brokenTail{n: 0, writeErr: errInjected}, errInjected, 1, 0},
		{"short write", brokenTail{n: 2}, io.ErrShortWrite, 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := &Append{file: &tc.tail}
			for range 3 {
				if err := a.Append([]byte("line")); !errors.Is(err, ErrPoisoned) || !errors.Is(err, tc.want) {
					t.Errorf("err = %v, want ErrPoisoned and %v", err, tc.want)
				}
			}
			if tc.tail.writes != tc.writes || tc.tail.syncs != tc.sync {
				t.Errorf("%d writes and %d syncs, want %d and %d: a failure was retried", tc.tail.writes, tc.tail.syncs, tc.writes, tc.sync)
			}
		})
	}
}

func TestAppendToAFullDevice(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	a := &Append{file: osTail{f}}
	defer a.Close()
	if err := a.Append([]byte("line")); !errors.Is(err, ErrPoisoned) {
		t.Errorf("err = %v, want ErrPoisoned", err)
	}
}

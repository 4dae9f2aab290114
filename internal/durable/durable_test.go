package durable

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var errInjected = errors.New("injected")

func TestWriteFileReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, content := range []string{"first", "", strings.Repeat("x", 1<<20)} {
		if err := WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		wantFile(t, path, content, 0o640)
	}
	wantNoTemps(t, filepath.Dir(path))
}

func TestWriteFileFailures(t *testing.T) {
	broken := realSteps()
	broken.syncFile = func(*os.File) error { return errInjected }
	noRename := realSteps()
	noRename.rename = func(string, string) error { return errInjected }
	noDirSync := realSteps()
	noDirSync.syncDir = func(string) error { return errInjected }
	for _, tc := range []struct {
		name string
		do   steps
		want string // what path holds afterwards
	}{
		{"fsync", broken, "old"},
		{"rename", noRename, "old"},
		{"directory fsync", noDirSync, "new"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			if err := WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := writeFile(tc.do, path, []byte("new"), 0o600); !errors.Is(err, errInjected) {
				t.Fatalf("err = %v, want the injected one", err)
			}
			wantFile(t, path, tc.want, 0o600)
			wantNoTemps(t, filepath.Dir(path))
		})
	}
}

func TestWriteFileIsSyncedBeforeRename(t *testing.T) {
	var order []string
	do := realSteps()
	do.syncFile = func(f *os.File) error { order = append(order, "file"); return f.Sync() }
	do.rename = func(from, to string) error { order = append(order, "rename"); return os.Rename(from, to) }
	do.syncDir = func(dir string) error { order = append(order, "dir"); return SyncDir(dir) }
	if err := writeFile(do, filepath.Join(t.TempDir(), "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, " "); got != "file rename dir" {
		t.Errorf("order = %s", got)
	}
}

func TestCreateRefusesWhatExists(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := Create(path, []byte("one"), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"f", "link", "sub"} {
		err := Create(filepath.Join(dir, name), []byte("two"), 0o600)
		if !errors.Is(err, ErrExists) || !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: err = %v, want ErrExists", name, err)
		}
	}
	wantFile(t, path, "one", 0o400)
	wantNoTemps(t, dir)
}

func TestCreateFailures(t *testing.T) {
	broken := realSteps()
	broken.syncFile = func(*os.File) error { return errInjected }
	noLink := realSteps()
	noLink.link = func(string, string) error { return errInjected }
	for name, do := range map[string]steps{"fsync": broken, "link": noLink} {
		path := filepath.Join(t.TempDir(), "f")
		if err := create(do, path, []byte("x"), 0o600); !errors.Is(err, errInjected) || errors.Is(err, ErrExists) {
			t.Errorf("%s: err = %v, want the injected one", name, err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the file is there: %v", name, err)
		}
		wantNoTemps(t, filepath.Dir(path))
	}
}

func TestSweepTakesOnlyItsOwn(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"keep", ".keep", "a" + tempInfix + "1", ".f" + tempInfix + "123"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 3 {
		t.Errorf("left %v, %v; want three files", left, err)
	}
}

func TestSpace(t *testing.T) {
	dir := t.TempDir()
	free, err := FreeBytes(dir)
	if err != nil {
		t.Fatal(err)
	}
	total, err := TotalBytes(dir)
	if err != nil || free == 0 || free > total {
		t.Errorf("free %d of %d, %v", free, total, err)
	}
	if _, err := FreeBytes(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

func TestBallast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ballast")
	b, err := NewBallast(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	held := func(want bool) {
		t.Helper()
		if got, err := b.Held(); got != want || err != nil {
			t.Fatalf("Held = %v, %v; want %v", got, err, want)
		}
	}
	held(false)
	for range 2 {
		if err := b.Reserve(); err != nil {
			t.Fatal(err)
		}
		held(true)
	}
	// A sparse file of the right size holds no blocks and is no ballast.
	if err := errors.Join(os.Truncate(path, 0), os.Truncate(path, 1<<20)); err != nil {
		t.Fatal(err)
	}
	held(false)
	if err := b.Reserve(); err != nil {
		t.Fatal(err)
	}
	held(true)
	for range 2 {
		if err := b.Release(); err != nil {
			t.Fatal(err)
		}
		held(false)
	}
}

func TestBallastLargerThanTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ballast")
	b, err := NewBallast(path, 1<<60)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Reserve(); err == nil {
		t.Fatal("reserved an exbibyte")
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a failed reservation left its file: %v", err)
	}
	if _, err := NewBallast(path, 0); err == nil {
		t.Error("a ballast of no size was accepted")
	}
}

func wantFile(t *testing.T, path, content string, perm fs.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, []byte(content)) || info.Mode().Perm() != perm {
		t.Errorf("%s holds %d bytes with mode %v, want %d with %v", path, len(got), info.Mode().Perm(), len(content), perm)
	}
}

func wantNoTemps(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, ".*"+tempInfix+"*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

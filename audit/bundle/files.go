package bundle

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// ErrUnreadable means that there is no bundle to judge: neither manifest nor checkpoint could be read.
var ErrUnreadable = errors.New("no evidence bundle")

var (
	errAbsent  = errors.New("not in the bundle")
	errTooLong = errors.New("larger than its bound")
)

// files is what a scan found: regular files at their places, within their bounds. Nothing else is ever opened.
type files struct {
	fsys fs.FS
	size map[string]int64
}

// scan walks the whole tree and reports everything that has no place in a bundle.
func scan(ctx context.Context, fsys fs.FS, t *tally) (*files, error) {
	f := &files{fsys: fsys, size: map[string]int64{}}
	err := fs.WalkDir(fsys, ".", func(path string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			t.fail(CheckLayout, in(path), "unreadable: %v", err)
			return nil
		}
		if entry.IsDir() {
			return f.enter(path, t)
		}
		if len(f.size) >= maxFiles {
			t.fail(CheckLayout, place{}, "more than %d files: the rest was not read", maxFiles)
			return fs.SkipAll
		}
		f.note(path, entry, t)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("bundle: scan: %w", err)
	}
	if !f.has(pathManifest) && !f.has(pathCheckpoint) {
		return nil, fmt.Errorf("bundle: %w: no %s and no %s", ErrUnreadable, pathManifest, pathCheckpoint)
	}
	return f, nil
}

func (f *files) enter(path string, t *tally) error {
	if path == "." || (validPath(path) && strings.Count(path, "/") < 12) {
		return nil
	}
	t.fail(CheckLayout, in(path), "not a directory of a bundle")
	return fs.SkipDir
}

func (f *files) note(path string, entry fs.DirEntry, t *tally) {
	info, err := entry.Info()
	limit, known := sizeLimit(path)
	switch {
	case err != nil:
		t.fail(CheckLayout, in(path), "unreadable: %v", err)
	case !entry.Type().IsRegular() || !info.Mode().IsRegular():
		t.fail(CheckLayout, in(path), "not a regular file: %v", entry.Type())
	case !validPath(path) || !known:
		t.fail(CheckLayout, in(path), "no such file belongs to a bundle")
	case info.Size() > limit:
		t.fail(CheckLayout, in(path), "%d bytes, at most %d", info.Size(), limit)
	default:
		f.size[path] = info.Size()
		t.pass(CheckLayout, 1)
	}
}

func (f *files) has(path string) bool {
	_, ok := f.size[path]
	return ok
}

// read returns a whole file. The bound is checked again, since a file may not be as long as it said.
func (f *files) read(path string) (data []byte, err error) {
	size, ok := f.size[path]
	if !ok {
		return nil, errAbsent
	}
	limit, _ := sizeLimit(path)
	file, err := f.fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	buffer := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	if _, err = buffer.ReadFrom(io.LimitReader(file, limit+1)); err != nil {
		return nil, err
	}
	if int64(buffer.Len()) > limit {
		return nil, errTooLong
	}
	return buffer.Bytes(), nil
}

// hashBuffer is what io.Copy would take for the smallest file.
const hashBuffer = 32 << 10

// hash streams a file through SHA-256.
func (f *files) hash(path string) (sum [sha256.Size]byte, err error) {
	if !f.has(path) {
		return sum, errAbsent
	}
	limit, _ := sizeLimit(path)
	file, err := f.fsys.Open(path)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	digest := sha256.New()
	n, err := io.CopyBuffer(digest, io.LimitReader(file, limit+1), make([]byte, min(f.size[path]+1, hashBuffer)))
	if err != nil {
		return sum, err
	}
	if n > limit {
		return sum, errTooLong
	}
	return [sha256.Size]byte(digest.Sum(nil)), nil
}

// numbered lists n of every prefix<n>suffix, ascending.
func (f *files) numbered(prefix, suffix string) []uint64 {
	var list []uint64
	for path := range f.size {
		if n, ok := number(path, prefix, suffix); ok {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}

// under lists the files below a directory, sorted.
func (f *files) under(prefix string) []string {
	var list []string
	for path := range f.size {
		if strings.HasPrefix(path, prefix) {
			list = append(list, path)
		}
	}
	slices.Sort(list)
	return list
}

// lines splits a file of whole lines, each ending in one LF, and refuses anything else. At most max lines.
func lines(data []byte, most int) ([][]byte, error) {
	if len(data) == 0 || data[len(data)-1] != '\n' {
		return nil, errors.New("does not end in a line feed")
	}
	list := bytes.Split(data[:len(data)-1], []byte{'\n'})
	if len(list) > most {
		return nil, fmt.Errorf("%d lines, at most %d", len(list), most)
	}
	for i, line := range list {
		if len(line) == 0 || bytes.IndexByte(line, '\r') >= 0 {
			return nil, fmt.Errorf("line %d is empty or holds a carriage return", i+1)
		}
	}
	return list, nil
}

// manifest checks every file against MANIFEST.sha256, both ways.
func (f *files) manifest(ctx context.Context, t *tally, workers int) error {
	listed, err := f.readManifest(t)
	if err != nil {
		t.fail(CheckManifest, in(pathManifest), "%v", err)
		return nil
	}
	for _, path := range f.under("") {
		if _, ok := listed[path]; !ok && path != pathManifest {
			t.fail(CheckManifest, in(path), "not listed in %s", pathManifest)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for path, want := range listed {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			if sum, err := f.hash(path); err != nil {
				t.fail(CheckManifest, in(path), "%v", err)
			} else if sum != want {
				t.fail(CheckManifest, in(path), "SHA-256 is not the listed one")
			} else {
				t.pass(CheckManifest, 1)
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

func (f *files) readManifest(t *tally) (map[string][sha256.Size]byte, error) {
	if !f.has(pathManifest) {
		return nil, errAbsent
	}
	file, err := f.fsys.Open(pathManifest)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // read only: nothing is lost
	listed := map[string][sha256.Size]byte{}
	in := bufio.NewScanner(io.LimitReader(file, maxManifest))
	in.Buffer(make([]byte, 0, 4096), 4096)
	in.Split(wholeLines)
	for number := 1; in.Scan(); number++ {
		path, sum, err := manifestLine(in.Text())
		if err != nil {
			t.fail(CheckManifest, place{file: pathManifest}, "line %d: %v", number, err)
			continue
		}
		if _, twice := listed[path]; twice {
			t.fail(CheckManifest, place{file: path}, "listed twice")
		}
		if len(listed) >= maxFiles {
			return nil, errTooLong
		}
		listed[path] = sum
	}
	return listed, in.Err()
}

// wholeLines is [bufio.ScanLines] that neither strips a carriage return nor forgives a missing line feed.
func wholeLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return 0, nil, errors.New("does not end in a line feed")
	}
	return 0, nil, nil
}

// manifestLine reads what sha256sum prints in text mode: hash, two spaces, path.
func manifestLine(line string) (path string, sum [sha256.Size]byte, err error) {
	text, path, found := strings.Cut(line, "  ")
	if !found || !isHash(text) || !validPath(path) || path == pathManifest {
		return "", sum, errors.New("not a SHA-256, two spaces and a path")
	}
	raw, err := hex.DecodeString(text)
	if err != nil {
		return "", sum, err
	}
	return path, [sha256.Size]byte(raw), nil
}

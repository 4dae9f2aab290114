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
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// ErrUnreadable means that there is no bundle to judge: neither manifest nor checkpoint could be read.
var ErrUnreadable = errors.New("no evidence bundle")

var (
	errAbsent  = errors.New("not in the bundle")
	errTooLong = errors.New("larger than its bound")
)

// files is what a scan found: regular files at their places, within their bounds. Nothing else is ever opened. What is read is
// held to the manifest on that occasion, and what nobody read in the end, so that hardly a file is read twice.
type files struct {
	fsys   fs.FS
	size   map[string]int64
	tally  *tally
	listed map[string]*listing // by path; nil if there is no manifest
}

// listing is a line of the manifest.
type listing struct {
	sum  hash
	held atomic.Bool // the file was held to it
}

// scan walks the whole tree and reports everything that has no place in a bundle.
func scan(ctx context.Context, fsys fs.FS, t *tally) (*files, error) {
	f := &files{fsys: fsys, size: map[string]int64{}, tally: t}
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

// read returns a whole file.
func (f *files) read(path string) ([]byte, error) { return f.readInto(path, nil) }

// readInto is read into a buffer, which grows if it is too short.
func (f *files) readInto(path string, buffer []byte) ([]byte, error) {
	data, err := f.glance(path, buffer)
	if l := f.listed[path]; err == nil && l != nil && !l.held.Load() {
		f.hold(path, l, sha256.Sum256(data))
	}
	return data, err
}

// glance is readInto for who does not judge by it what it reads. The bound is checked again, since a file may not be as long as it said.
func (f *files) glance(path string, buffer []byte) (data []byte, err error) {
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
	data = slices.Grow(buffer[:0], int(size)+1) // one more, to see the end
	for {
		n, err := file.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case int64(len(data)) > limit:
			return nil, errTooLong
		case errors.Is(err, io.EOF):
			return data, nil
		case err != nil:
			return nil, err
		}
		data = slices.Grow(data, 1)
	}
}

// hold compares a file's hash with the manifest's, once.
func (f *files) hold(path string, l *listing, sum hash) {
	switch {
	case l.held.Swap(true):
	case sum != l.sum:
		f.tally.fail(CheckManifest, in(path), "SHA-256 is not the listed one")
	default:
		f.tally.pass(CheckManifest, 1)
	}
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
	sum = [sha256.Size]byte(digest.Sum(nil))
	if l := f.listed[path]; l != nil {
		f.hold(path, l, sum)
	}
	return sum, nil
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

// manifest reads MANIFEST.sha256, to which every file is held when it is read.
func (f *files) manifest() {
	listed, err := f.readManifest(f.tally)
	if err != nil {
		f.tally.fail(CheckManifest, in(pathManifest), "%v", err)
		return
	}
	f.listed = listed
	for _, path := range f.under("") {
		if _, ok := listed[path]; !ok && path != pathManifest {
			f.tally.fail(CheckManifest, in(path), "not listed in %s", pathManifest)
		}
	}
}

// rest holds to the manifest what was not read.
func (f *files) rest(ctx context.Context, workers int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for path, l := range f.listed {
		if ctx.Err() != nil {
			break
		}
		if l.held.Load() {
			continue
		}
		group.Go(func() error {
			if _, err := f.hash(path); err != nil {
				f.tally.fail(CheckManifest, in(path), "%v", err)
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

func (f *files) readManifest(t *tally) (map[string]*listing, error) {
	if !f.has(pathManifest) {
		return nil, errAbsent
	}
	file, err := f.fsys.Open(pathManifest)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // read only: nothing is lost
	listed := map[string]*listing{}
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
		listed[path] = &listing{sum: sum}
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

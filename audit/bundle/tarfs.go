package bundle

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// ErrArchive means that a tar archive is not one that this package would write: a link, a device, a path outside, a repeated
// name, a file beyond its bound.
var ErrArchive = errors.New("tar archive refused")

// OpenTar reads the index of a tar archive of size bytes and serves its files from r, which must stay open. Contents are read
// on demand. The whole archive is refused for one bad member. Safe concurrently as far as r is.
func OpenTar(r io.ReaderAt, size int64) (fs.FS, error) {
	section := io.NewSectionReader(r, 0, size)
	t := &tarFS{data: r, files: map[string]member{}, dirs: map[string]map[string]bool{".": {}}}
	for in := tar.NewReader(section); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("bundle: %w: %w", ErrArchive, err)
		}
		offset, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, fmt.Errorf("bundle: tar: %w", err)
		}
		if err := t.add(header, member{offset: offset, size: header.Size}); err != nil {
			return nil, err
		}
	}
}

type member struct{ offset, size int64 }

type tarFS struct {
	data  io.ReaderAt
	files map[string]member
	dirs  map[string]map[string]bool // children by directory
}

func (t *tarFS) add(h *tar.Header, m member) error {
	name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
	if h.Typeflag == tar.TypeDir && (name == "" || name == "." || validPath(name)) {
		return nil // directories follow from the files
	}
	limit, known := sizeLimit(name)
	switch {
	case h.Typeflag != tar.TypeReg, sparse(h):
		return fmt.Errorf("bundle: %w: %q is no regular file", ErrArchive, clip(h.Name))
	case !validPath(name):
		return fmt.Errorf("bundle: %w: path %q", ErrArchive, clip(h.Name))
	case known && m.size > limit, !known && m.size > maxSmall:
		return fmt.Errorf("bundle: %w: %q holds %d bytes", ErrArchive, clip(name), m.size)
	case len(t.files) >= maxFiles:
		return fmt.Errorf("bundle: %w: more than %d files", ErrArchive, maxFiles)
	}
	if _, twice := t.files[name]; twice || t.dirs[name] != nil {
		return fmt.Errorf("bundle: %w: %q twice", ErrArchive, clip(name))
	}
	t.files[name] = m
	return t.link(name)
}

// sparse reports a PAX sparse file, whose bytes in the archive are not its content.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// link enters name below its directories.
func (t *tarFS) link(name string) error {
	for name != "." {
		parent, base := ".", name
		if i := strings.LastIndexByte(name, '/'); i >= 0 {
			parent, base = name[:i], name[i+1:]
		}
		if _, file := t.files[parent]; file {
			return fmt.Errorf("bundle: %w: %q is a file and a directory", ErrArchive, clip(parent))
		}
		if t.dirs[parent] == nil {
			t.dirs[parent] = map[string]bool{}
		}
		t.dirs[parent][base] = true
		name = parent
	}
	return nil
}

// Open implements [fs.FS].
func (t *tarFS) Open(name string) (fs.File, error) {
	if m, ok := t.files[name]; ok {
		return &tarMember{SectionReader: io.NewSectionReader(t.data, m.offset, m.size), info: t.info(name)}, nil
	}
	if _, ok := t.dirs[name]; ok {
		return &tarDir{of: t, name: name, info: t.info(name)}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// ReadDir implements [fs.ReadDirFS], sorted.
func (t *tarFS) ReadDir(name string) ([]fs.DirEntry, error) {
	children, ok := t.dirs[name]
	if !ok {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	list := make([]fs.DirEntry, 0, len(children))
	for base := range children {
		path := base
		if name != "." {
			path = name + "/" + base
		}
		list = append(list, fs.FileInfoToDirEntry(t.info(path)))
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

func (t *tarFS) info(path string) tarInfo {
	base := path[strings.LastIndexByte(path, '/')+1:]
	if m, ok := t.files[path]; ok {
		return tarInfo{name: base, size: m.size, mode: 0o444}
	}
	return tarInfo{name: base, mode: fs.ModeDir | 0o555}
}

type tarMember struct {
	*io.SectionReader
	info tarInfo
}

func (f *tarMember) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *tarMember) Close() error               { return nil }

type tarDir struct {
	of   *tarFS
	name string
	info tarInfo
	next int
}

func (d *tarDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *tarDir) Close() error               { return nil }

func (d *tarDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: errors.New("is a directory")}
}

// ReadDir implements [fs.ReadDirFile].
func (d *tarDir) ReadDir(n int) ([]fs.DirEntry, error) {
	list, err := d.of.ReadDir(d.name)
	if err != nil {
		return nil, err
	}
	list = list[min(d.next, len(list)):]
	if n > 0 && len(list) == 0 {
		return nil, io.EOF
	}
	if n > 0 && len(list) > n {
		list = list[:n]
	}
	d.next += len(list)
	return list, nil
}

type tarInfo struct {
	name string
	size int64
	mode fs.FileMode
}

func (i tarInfo) Name() string       { return i.name }
func (i tarInfo) Size() int64        { return i.size }
func (i tarInfo) Mode() fs.FileMode  { return i.mode }
func (i tarInfo) ModTime() time.Time { return time.Time{} }
func (i tarInfo) IsDir() bool        { return i.mode.IsDir() }
func (i tarInfo) Sys() any           { return nil }

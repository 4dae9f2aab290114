package audit

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/internal/durable"
)

// headsName is the file outside the store that tells what was acknowledged, should the store lose it.
const headsName = "heads.log"

// maxHeads is the size from which heads.log is replaced by its last line.
const maxHeads = 4 << 20

// errHeads: heads.log is not what this package writes.
var errHeads = errors.New("audit: heads.log is corrupt")

// line is one line of heads.log: a head that was durable in the store before the line was written.
type line struct {
	size uint64
	root [32]byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// marshal writes "<size> <root, hex> <CRC-32C of what is before it, hex>", without LF.
func (l line) marshal() []byte {
	b := fmt.Appendf(nil, "%d %x ", l.size, l.root)
	return fmt.Appendf(b, "%08x", crc32.Checksum(b, castagnoli))
}

func parseLine(b []byte) (line, error) {
	var l line
	fields := bytes.Split(b, []byte(" "))
	if len(fields) != 3 || len(fields[1]) != 2*len(l.root) {
		return line{}, fmt.Errorf("%w: line of %d bytes", errHeads, len(b))
	}
	var err error
	if l.size, err = strconv.ParseUint(string(fields[0]), 10, 64); err != nil || l.size > merkle.MaxSize {
		return line{}, fmt.Errorf("%w: size", errHeads)
	}
	if _, err := hex.Decode(l.root[:], fields[1]); err != nil {
		return line{}, fmt.Errorf("%w: root", errHeads)
	}
	// Also closes other spellings of size, root and checksum.
	if !bytes.Equal(l.marshal(), b) {
		return line{}, fmt.Errorf("%w: checksum", errHeads)
	}
	return l, nil
}

// parseHeads returns the last line; ok is false for an empty file. Sizes never fall. Bytes after the last LF belong to a
// line that was never acknowledged, and are ignored.
func parseHeads(data []byte) (last line, ok bool, err error) {
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		next, err := parseLine(data[:end])
		if err != nil {
			return line{}, false, err
		}
		if ok && next.size < last.size {
			return line{}, false, fmt.Errorf("%w: size %d after %d", errHeads, next.size, last.size)
		}
		last, ok, data = next, true, data[end+1:]
	}
	return last, ok, nil
}

func readHeads(dir string) (last line, ok bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, headsName))
	if err != nil {
		return line{}, false, fmt.Errorf("audit: %w", err)
	}
	return parseHeads(data)
}

// hasHeads reports whether heads.log says anything, corrupt or not.
func hasHeads(dir string) (bool, error) {
	info, err := os.Stat(filepath.Join(dir, headsName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("audit: %w", err)
	}
	return info.Size() > 0, nil
}

// heads is the open file. One goroutine at a time.
type heads struct {
	path string
	file *durable.Append
	size int
}

// startHeads replaces the file by one line and opens it, after what it held was believed. A line whose sync failed, and which is
// in the page cache alone, is written again with it: syncing it once more would prove nothing.
func startHeads(dir string, l line) (*heads, error) {
	h := &heads{path: filepath.Join(dir, headsName)}
	if err := durable.WriteFile(h.path, append(l.marshal(), '\n'), 0o600); err != nil {
		return nil, fmt.Errorf("audit: heads.log: %w", err)
	}
	return h, h.open()
}

// createHeads makes the empty file of a new log.
func createHeads(dir string) (*heads, error) {
	h := &heads{path: filepath.Join(dir, headsName)}
	if err := durable.Create(h.path, nil, 0o600); err != nil {
		return nil, fmt.Errorf("audit: heads.log: %w", err)
	}
	return h, h.open()
}

func (h *heads) open() error {
	info, err := os.Stat(h.path)
	if err != nil {
		return fmt.Errorf("audit: heads.log: %w", err)
	}
	h.size = int(info.Size())
	if h.file, err = durable.OpenAppend(h.path); err != nil {
		return fmt.Errorf("audit: heads.log: %w", err)
	}
	return nil
}

// append makes a line durable. After an error the file's end is unknown.
func (h *heads) append(l line) error {
	b := l.marshal()
	if h.size+len(b) >= maxHeads {
		return h.replace(b)
	}
	if err := h.file.Append(b); err != nil {
		return fmt.Errorf("audit: heads.log: %w", err)
	}
	h.size += len(b) + 1
	return nil
}

// replace keeps only the newest line: at every moment the file has the old lines or the new one.
func (h *heads) replace(b []byte) error {
	if err := h.file.Close(); err != nil {
		return fmt.Errorf("audit: heads.log: %w", err)
	}
	if err := durable.WriteFile(h.path, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("audit: heads.log: %w", err)
	}
	return h.open()
}

func (h *heads) close() error {
	if h == nil {
		return nil
	}
	return h.file.Close()
}

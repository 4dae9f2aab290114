package store

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"golang.org/x/sync/errgroup"
)

// checkAll is checkTables of a store that is only read.
func checkAll(dir string) error {
	p, err := examine(dir)
	if err != nil || p == nil {
		return err
	}
	if len(p.withdrawn) > 0 {
		return fmt.Errorf("%w: %s", ErrUnclean, manifest)
	}
	_, err = p.checkTables(dir)
	return err
}

// checkTables compares the checksums of all blocks of all tables, and returns the highest version in them. It must hold before
// Badger opens: Badger panics at an index that it cannot read, in a goroutine of its own; its iterators end without an error at such a
// block, and a compaction then drops what comes after. Badger's own check at opening says the same in several times the time: it
// touches the tables page by page, and fills its cache with them. Blocks are checked again as they are read.
func (p *plan) checkTables(dir string) (last uint64, err error) {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	buffers := make(chan []byte, runtime.GOMAXPROCS(0))
	for range cap(buffers) {
		buffers <- nil
	}
	var mu sync.Mutex
	for _, id := range p.largestFirst(dir) {
		g.Go(func() error {
			buf := <-buffers
			buf, version, err := checkTable(table.NewFilename(id, dir), id, options.CompressionType(p.tables[id].compression), buf)
			buffers <- buf
			mu.Lock()
			defer mu.Unlock()
			last = max(last, version)
			return err
		})
	}
	return last, g.Wait()
}

// largestFirst orders tables so that what the first ones are read into is large enough for all.
func (p *plan) largestFirst(dir string) []uint64 {
	sizes := make(map[uint64]int64, len(p.tables))
	for id := range p.tables {
		if info, err := os.Stat(table.NewFilename(id, dir)); err == nil {
			sizes[id] = info.Size() // reading it says what is wrong
		}
	}
	return slices.SortedFunc(maps.Keys(p.tables), func(a, b uint64) int { return cmp.Compare(sizes[b], sizes[a]) })
}

// checkTable reads a table into buf, and returns that for the next one.
func checkTable(path string, id uint64, c options.CompressionType, buf []byte) (_ []byte, last uint64, err error) {
	defer func() {
		if r := recover(); r != nil { // lengths are taken at their word before a checksum is compared; the text holds half of the file
			err = fmt.Errorf("%w: table %d: its index or a block cannot be read", ErrDamaged, id)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return buf, 0, fmt.Errorf("store: open: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return buf, 0, fmt.Errorf("store: open: %w", err)
	}
	buf = slices.Grow(buf[:0], int(info.Size()))[:info.Size()]
	if _, err := io.ReadFull(f, buf); err != nil {
		return buf, 0, fmt.Errorf("store: open: %s: %w", path, err)
	}
	t, err := table.OpenInMemoryTable(buf, id, &table.Options{ChkMode: options.OnBlockRead, Compression: c, BlockSize: 1})
	if err == nil {
		err = t.VerifyChecksum()
	}
	if err != nil {
		return buf, 0, fmt.Errorf("%w: table %d: %w", ErrDamaged, id, err)
	}
	return buf, t.MaxVersion(), nil
}

package store

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Fixed parts of Room: files that Badger makes and writes a page or so of, and a margin.
const (
	roomFixed = 4 << 20
	blockUnit = 512 // of st_blocks, stat(2)
)

// Room is how many bytes opening the store in dir may write: each write-ahead log is copied, and becomes a table. With less free
// Badger is killed by SIGBUS, as it writes through memory.
func Room(dir string) (uint64, error) {
	wals, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return 0, fmt.Errorf("store: open: %w", err)
	}
	room := uint64(roomFixed)
	for _, path := range wals {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return 0, fmt.Errorf("store: open: %s: %w", path, err)
		}
		room += 2 * blockUnit * uint64(st.Blocks) //nolint:gosec // G115: not negative
	}
	return room, nil
}

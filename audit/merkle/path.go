package merkle

import (
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Path is the URL path and file name of a hash tile: tile/<level>/<index>[.p/<width>] (C2SP tlog-tiles).
func Path(level int, index uint64, width int) string {
	t := tlog.Tile{H: TileHeight, L: level, N: int64(index), W: width} //nolint:gosec // G115: callers hold tiles of trees up to MaxSize
	return "tile/" + strings.TrimPrefix(t.Path(), "tile/8/")
}

// ParsePath reads what Path writes, and nothing else. Errors match [ErrTile].
func ParsePath(path string) (level int, index uint64, width int, err error) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok || len(path) > 64 {
		return 0, 0, 0, fmt.Errorf("%w: path %.64q", ErrTile, path)
	}
	t, err := tlog.ParseTilePath("tile/8/" + rest)
	if err != nil || t.L < 0 || t.L > 63 || t.N < 0 || t.N > MaxSize {
		return 0, 0, 0, fmt.Errorf("%w: path %.64q", ErrTile, path)
	}
	return t.L, uint64(t.N), t.W, nil
}

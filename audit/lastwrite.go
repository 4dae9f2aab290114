package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// LastWrite is when heads.log was written, by the clock of then: with each commit, right after the store. It needs no lock, so it can be
// asked beside a running log.
func LastWrite(dir string) (time.Time, error) {
	info, err := os.Stat(filepath.Join(dir, headsName))
	if err != nil {
		return time.Time{}, fmt.Errorf("audit: last write: %w", err)
	}
	return info.ModTime(), nil
}

package appliance

import (
	"testing"
	"time"
)

func TestStartAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	starts := []time.Time{now.Add(-time.Hour), now, now.Add(time.Second), now.Add(time.Hour)}
	if n := startAfter(starts, now); n != 2 {
		t.Errorf("%d CAs are still to come, want 2", n)
	}
	if n := startAfter(nil, now); n != 0 {
		t.Errorf("%d of none", n)
	}
}

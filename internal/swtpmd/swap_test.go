package swtpmd

import "testing"

func FuzzAuthorising(f *testing.F) {
	f.Add([]byte{0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 9, 2, 0, 0, 0, 0, 0, 1, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, area []byte) {
		if n := len(authorising(area)); 4*n > len(area) {
			t.Errorf("%d sessions in %d bytes", n, len(area))
		}
	})
}

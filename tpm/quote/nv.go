package quote

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

// TPMA_NV bits (Part 2, 13.4).
const (
	nvTypeMask    = 0xf << 4
	nvTypeCounter = 1 << 4
	nvOrderly     = 1 << 26
	nvWritten     = 1 << 29
)

// NVCounter is the public area of an NV index that is an orderly monotonic counter. A TPM never lets a counter go back, not even
// when its index is deleted and defined again.
type NVCounter struct {
	public []byte // TPMS_NV_PUBLIC
	index  uint32
}

// ParseCounter reads a TPMS_NV_PUBLIC, or a TPM2B_NV_PUBLIC around one, and refuses with [ErrKey] anything but an orderly
// counter of eight bytes that has been written: an index's name changes at its first write, so the name of one that has not is
// of no use.
func ParseCounter(public []byte) (*NVCounter, error) {
	if len(public) > 2 && len(public) <= maxPublic && int(public[0])<<8|int(public[1]) == len(public)-2 {
		public = public[2:] // TPM2B_NV_PUBLIC
	}
	c, s := NVCounter{public: bytes.Clone(public)}, cryptobyte.String(public)
	var nameAlg, size uint16
	var attrs uint32
	var policy []byte
	if !s.ReadUint32(&c.index) || !s.ReadUint16(&nameAlg) || !s.ReadUint32(&attrs) || !read2B(&s, &policy) ||
		!s.ReadUint16(&size) || !s.Empty() {
		return nil, fmt.Errorf("quote: NV counter: %w public area", ErrMalformed)
	}
	if err := checkNV(nameAlg, size, attrs); err != nil {
		return nil, fmt.Errorf("quote: NV counter: %w", err)
	}
	return &c, nil
}

func checkNV(nameAlg, size uint16, attrs uint32) error {
	var errs []error
	refuse := func(bad bool, why string) {
		if bad {
			errs = append(errs, fmt.Errorf("%w: %s", ErrKey, why))
		}
	}
	refuse(nameAlg != algSHA256, "name algorithm is not SHA-256")
	refuse(attrs&nvTypeMask != nvTypeCounter, "not a counter: its value can go back")
	refuse(attrs&nvOrderly == 0, "not orderly: each increment wears the flash")
	refuse(attrs&nvWritten == 0, "never written")
	refuse(size != counterSize, "not eight bytes")
	return errors.Join(errs...)
}

// Index is the NV index's handle.
func (c *NVCounter) Index() uint32 { return c.index }

// Marshal is the TPMS_NV_PUBLIC.
func (c *NVCounter) Marshal() []byte { return bytes.Clone(c.public) }

// Name is the index's TPM name, 34 bytes: what [VerifyCounter] compares.
func (c *NVCounter) Name() []byte { return name(c.public) }

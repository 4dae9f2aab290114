package ca

import (
	"fmt"
	"io"
)

const serialLen = 16

// newSerial draws 16 octets. Of the first, the top bit is clear, so that the INTEGER is positive without padding
// (RFC 5280 §4.1.2.2), and one bit of the upper half is set, so that the serial is never zero and is 32 hexadecimal
// digits however it is printed: 126 bits of chance remain.
func newSerial(random io.Reader) (serial [serialLen]byte, err error) {
	if _, err := io.ReadFull(random, serial[:]); err != nil {
		return serial, fmt.Errorf("ca: serial: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x10
	return serial, nil
}

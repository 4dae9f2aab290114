package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

const (
	headerSize  = 10 // of commands and responses (Part 1, 18)
	maxResponse = 4096
	retryFirst  = 2 * time.Millisecond
	retryMost   = 100 * time.Millisecond
)

// conn gives go-tpm's commands the deadlines of one operation. It implements transport.TPM and lives no longer than its operation.
type conn struct {
	ctx    context.Context // Send has no room for it
	device *Device
	broken bool // a command was lost
}

// Send runs one command. Warnings by which a TPM asks for patience are obeyed until the command's deadline.
func (c *conn) Send(command []byte) ([]byte, error) {
	if c.broken {
		return nil, fmt.Errorf("%w: the connection broke before", ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.device.timeout(command))
	defer cancel()
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		response, err := c.device.link.exchange(ctx, command)
		if err != nil {
			c.broken = true
			return nil, classify(ctx, err)
		}
		if !asksForPatience(response) {
			return response, nil
		}
		if err := pause(ctx, wait); err != nil {
			return nil, fmt.Errorf("%w: it keeps asking for patience: %w", ErrTimeout, err)
		}
	}
}

func classify(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, errDeadline) {
		return fmt.Errorf("%w: %w", ErrTimeout, errors.Join(ctx.Err(), err))
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// timeout knows the commands that make keys.
func (d *Device) timeout(command []byte) time.Duration {
	if len(command) < headerSize {
		return d.config.Timeout
	}
	switch tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) {
	case tpm2.TPMCCCreatePrimary, tpm2.TPMCCCreate:
		return slowFactor * d.config.Timeout
	default:
		return d.config.Timeout
	}
}

// asksForPatience tells the warnings after which the same command is to be sent again (Part 2, 6.6.3). The TPM has done nothing.
func asksForPatience(response []byte) bool {
	switch tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])) {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate, tpm2.TPMRCNVUnavailable:
		return true
	default:
		return false
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flush frees a transient object or session even if the operation's context has ended meanwhile. Where it fails, the next
// operation frees everything.
func (c *conn) flush(handle tpm2.TPMHandle) {
	if c.broken {
		return
	}
	last := &conn{ctx: context.WithoutCancel(c.ctx), device: c.device}
	if _, err := (tpm2.FlushContext{FlushHandle: handle}).Execute(last); err != nil {
		c.broken = true
	}
}

// isNoObject tells the answer for a handle at which there is nothing.
func isNoObject(err error) bool { return errors.Is(err, tpm2.TPMRCHandle) }

package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/tpm/quote"
)

const counterSize = 8

// CreateCounter defines an orderly monotonic counter at Config.CounterIndex and increments it once, since it cannot be read and
// has not its final name before. It refuses with [ErrExists] an index that exists; only one of our own that was never written is
// completed.
//
// Definition takes the owner's authorisation; reading, incrementing and certifying take the index's own, which is empty. An
// attacker who can talk to the TPM can therefore increment it, which leaves a gap that every verifier sees, but nobody can set it
// back by deleting it: the next counter of a TPM starts above every value that any earlier one had. TPM2_Clear is the exception, see
// Info.ClearDisabled.
func (d *Device) CreateCounter(ctx context.Context) error {
	return d.do(ctx, "create counter", func(c *conn) error {
		if err := d.defineCounter(c); err != nil {
			return err
		}
		return d.increment(c)
	})
}

func (d *Device) defineCounter(c *conn) error {
	wanted := tpm2.TPMSNVPublic{
		NVIndex: tpm2.TPMHandle(d.config.CounterIndex), NameAlg: tpm2.TPMAlgSHA256, DataSize: counterSize,
		Attributes: tpm2.TPMANV{AuthRead: true, AuthWrite: true, NoDA: true, Orderly: true, NT: tpm2.TPMNTCounter},
	}
	rsp, err := tpm2.NVReadPublic{NVIndex: wanted.NVIndex}.Execute(c)
	if err == nil {
		if public, err := rsp.NVPublic.Contents(); err == nil && sameNV(public, &wanted) {
			return nil // ours, and never written
		}
		return fmt.Errorf("%w: NV index %v", ErrExists, quote.Handle(d.config.CounterIndex))
	}
	if !isNoObject(err) {
		return err
	}
	_, err = tpm2.NVDefineSpace{AuthHandle: emptyAuth(tpm2.TPMRHOwner), PublicInfo: tpm2.New2B(wanted)}.Execute(c)
	if errors.Is(err, tpm2.TPMRCNVDefined) {
		return fmt.Errorf("%w: NV index %v", ErrExists, quote.Handle(d.config.CounterIndex))
	}
	return err
}

func sameNV(a, b *tpm2.TPMSNVPublic) bool { return string(tpm2.Marshal(a)) == string(tpm2.Marshal(b)) }

// LoadCounter reads the counter's public area and pins it; see [Device.LoadAK].
func (d *Device) LoadCounter(ctx context.Context) (*quote.NVCounter, error) {
	var counter *quote.NVCounter
	err := d.do(ctx, "load counter", func(c *conn) (err error) {
		counter, err = d.loadCounter(c)
		return err
	})
	return counter, err
}

func (d *Device) loadCounter(c *conn) (*quote.NVCounter, error) {
	if d.counter != nil && d.counterChecked {
		return d.counter, nil
	}
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(d.config.CounterIndex)}.Execute(c)
	if isNoObject(err) {
		return nil, fmt.Errorf("%w at %v", ErrNoCounter, quote.Handle(d.config.CounterIndex))
	}
	if err != nil {
		return nil, err
	}
	counter, err := quote.ParseCounter(rsp.NVPublic.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsuitable, err)
	}
	if counter.Index() != d.config.CounterIndex {
		return nil, fmt.Errorf("%w: public area of index %v", ErrRefused, quote.Handle(counter.Index()))
	}
	var seen []byte
	if d.counter != nil {
		seen = d.counter.Name()
	}
	if err := pinned("counter", counter.Name(), d.config.CounterName, seen); err != nil {
		return nil, err
	}
	d.counter, d.counterChecked = counter, true
	return counter, nil
}

// Increment adds one and returns the new value. After [ErrTimeout] or [ErrUnavailable] the increment may have happened: ask
// [Device.State]. It is never repeated here.
func (d *Device) Increment(ctx context.Context) (uint64, error) {
	var value uint64
	err := d.do(ctx, "increment counter", func(c *conn) (err error) {
		if _, err := d.loadCounter(c); err != nil {
			return err
		}
		if err := d.increment(c); err != nil {
			return err
		}
		value, err = d.readCounter(c)
		return err
	})
	return value, err
}

// State reads boot and counter. It reads the boot before and after, so that both belong together.
func (d *Device) State(ctx context.Context) (State, error) {
	var state State
	err := d.do(ctx, "read state", func(c *conn) error {
		if _, err := d.loadCounter(c); err != nil {
			return err
		}
		for range attempts {
			before, err := tpm2.ReadClock{}.Execute(c)
			if err != nil {
				return err
			}
			value, err := d.readCounter(c)
			if err != nil {
				return err
			}
			after, err := tpm2.ReadClock{}.Execute(c)
			if err != nil {
				return err
			}
			was, is := before.CurrentTime.ClockInfo, after.CurrentTime.ClockInfo
			state = State{Reset: is.ResetCount, Restart: is.RestartCount, Counter: value}
			if was.ResetCount == is.ResetCount && was.RestartCount == is.RestartCount {
				return nil
			}
		}
		return fmt.Errorf("%w: the TPM restarts all the time", ErrUnavailable)
	})
	if err != nil {
		return State{}, err
	}
	return state, nil
}

func (d *Device) increment(c *conn) error {
	_, err := tpm2.NVIncrement{AuthHandle: d.nvHandle(), NVIndex: d.nvHandle()}.Execute(c)
	return err
}

func (d *Device) readCounter(c *conn) (uint64, error) {
	rsp, err := tpm2.NVRead{AuthHandle: d.nvHandle(), NVIndex: d.nvHandle(), Size: counterSize}.Execute(c)
	if err != nil {
		return 0, err
	}
	if len(rsp.Data.Buffer) != counterSize {
		return 0, fmt.Errorf("%w: counter of %d bytes", ErrRefused, len(rsp.Data.Buffer))
	}
	return binary.BigEndian.Uint64(rsp.Data.Buffer), nil
}

// nvHandle names no name: with a password the TPM does not use it (Part 1, 19.4), and it changes at the first write.
func (d *Device) nvHandle() tpm2.AuthHandle {
	return tpm2.AuthHandle{
		Handle: tpm2.TPMHandle(d.config.CounterIndex), Name: tpm2.TPM2BName{Buffer: make([]byte, 34)}, Auth: tpm2.PasswordAuth(nil),
	}
}

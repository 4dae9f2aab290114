// Package tpm drives one TPM 2.0: its attestation key (AK), a monotonic NV counter, statements over both, signing keys as
// [crypto.Signer], and PINs sealed to it ([SealedPIN]).
//
// It refuses to overwrite: keys and counters are made only by the functions that say so, at handles that must be free. It
// releases no statement and no signature that it has not verified with the public key pinned when the key was loaded. It does
// not decide what a counter value means, and it keeps no secret: the TPM's keys have empty authorisation, so what guards them
// is the permission on the device file. Whoever may open that can sign and count, and unseal what is approved.
//
// A [Device] is safe for concurrent use. Its operations run one after the other; every command has a deadline, and so has the
// wait for one's turn. After a failure of the transport the next operation connects anew, frees what was left in the TPM, and
// checks that AK and counter are still those that it knew.
package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/tpm/quote"
)

// Errors that callers branch on.
var (
	// ErrClosed means that the Device has been closed.
	ErrClosed = errors.New("device is closed")
	// ErrBusy means that others kept the TPM for longer than Config.Timeout; nothing was done.
	ErrBusy = errors.New("TPM is busy")
	// ErrTimeout means that the TPM did not answer in time. What it was asked may still happen.
	ErrTimeout = errors.New("TPM does not answer")
	// ErrUnavailable means that the TPM could not be reached or the connection broke. What it was asked may have happened.
	ErrUnavailable = errors.New("TPM is not reachable")
	// ErrExists means that a handle is taken. Nothing was changed.
	ErrExists = errors.New("handle is occupied")
	// ErrNoAK means that there is no key at Config.AKHandle.
	ErrNoAK = errors.New("no attestation key")
	// ErrNoCounter means that there is no NV index at Config.CounterIndex.
	ErrNoCounter = errors.New("no NV counter")
	// ErrNoSRK means that there is no key at [SRKHandle].
	ErrNoSRK = errors.New("no storage root key")
	// ErrKeyNotFound means that there is no key at the handle asked for.
	ErrKeyNotFound = errors.New("key not found")
	// ErrChanged means that the AK, the counter or the SRK is not the one that was pinned.
	ErrChanged = errors.New("not the pinned one")
	// ErrRefused means that the TPM returned something that does not verify; it was not released.
	ErrRefused = errors.New("the TPM's answer does not verify")
	// ErrUnsuitable means that a key exists but is not of the kind needed, or a request cannot be signed with it.
	ErrUnsuitable = errors.New("unsuitable")
)

// Defaults of [Config].
const (
	DefaultTimeout      = 5 * time.Second
	DefaultAKHandle     = 0x81020001 // owner's persistent range, beyond what the TCG registry reserves
	DefaultCounterIndex = 0x01805347 // owner's NV range
)

// slowFactor multiplies Config.Timeout for commands that make keys; some chips take tens of seconds for RSA.
const slowFactor = 12

// Config says which TPM, and what in it is ours. The zero value of every field but Path has a default.
type Config struct {
	// Path is "/dev/tpmrm0", or "unix:" and the path of a software TPM's socket.
	Path string
	// Timeout bounds each command, and the wait for one's turn. Making keys may take 12 times as long. Default 5 s.
	Timeout time.Duration
	// AKHandle is the AK's persistent handle, 0x81000000 to 0x817fffff. Default 0x81020001.
	AKHandle uint32
	// CounterIndex is the NV index of the counter, 0x01800000 to 0x01bfffff. Default 0x01805347.
	CounterIndex uint32
	// PCRs are what quotes cover. Default sha256:0,1,2,3,4,5,6,7.
	PCRs quote.Selection
	// AKName, CounterName and SRKName, where set, are the only TPM names that are accepted at AKHandle, CounterIndex and
	// [SRKHandle]. Where not, the first ones that the Device sees are pinned for its life.
	AKName, CounterName, SRKName []byte
}

// Device is an open TPM.
type Device struct {
	config Config
	log    *slog.Logger
	link   link
	done   chan struct{} // closed by Close
	close  sync.Once
	turn   chan struct{} // holds one token; its holder owns all below

	suspect bool // the transport failed: objects may be left in the TPM, which may be another one
	ak      *quote.AK
	counter *quote.NVCounter
	srk     *storageKey
	// Whether ak, counter and srk were compared with the TPM since the last failure.
	akChecked, counterChecked, srkChecked bool
}

// State is where the TPM stands. Nobody has signed it: it steers the appliance, and only [Device.CertifyCounter] proves it.
type State struct {
	Reset, Restart uint32 // see quote.Clock
	Counter        uint64
}

// Open connects to the TPM and frees the transient objects and sessions that a predecessor left. It needs neither AK nor counter.
// A TPM that is shared without a resource manager (a socket, /dev/tpm0) must have no other user at that moment.
func Open(ctx context.Context, config Config, log *slog.Logger) (*Device, error) {
	if err := config.complete(); err != nil {
		return nil, fmt.Errorf("tpm: configuration: %w", err)
	}
	d := &Device{
		config: config, log: log, link: newLink(config.Path), done: make(chan struct{}), turn: make(chan struct{}, 1), suspect: true,
	}
	d.turn <- struct{}{}
	info, err := d.Info(ctx)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if info.Simulated {
		log.WarnContext(ctx, "software TPM: for development and tests only, it protects nothing",
			slog.String("manufacturer", info.Manufacturer), slog.String("vendor", info.Vendor))
	}
	return d, nil
}

func (c *Config) complete() error {
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.AKHandle == 0 {
		c.AKHandle = DefaultAKHandle
	}
	if c.CounterIndex == 0 {
		c.CounterIndex = DefaultCounterIndex
	}
	if c.PCRs.IsZero() {
		c.PCRs = quote.PlatformPCRs()
	}
	var errs []error
	if !strings.HasPrefix(c.Path, "/dev/") && !strings.HasPrefix(c.Path, unixPrefix+"/") {
		errs = append(errs, fmt.Errorf("path %q is neither /dev/… nor unix:/…", c.Path))
	}
	if c.Timeout < 0 {
		errs = append(errs, errors.New("timeout is negative"))
	}
	if !isOwnerPersistent(c.AKHandle) {
		errs = append(errs, fmt.Errorf("AK handle %v is not in the owner's persistent range", quote.Handle(c.AKHandle)))
	}
	if c.CounterIndex < 0x01800000 || c.CounterIndex > 0x01bfffff {
		errs = append(errs, fmt.Errorf("counter index %v is not in the owner's NV range", quote.Handle(c.CounterIndex)))
	}
	return errors.Join(errs...)
}

// isOwnerPersistent tells the part of the persistent handles that owner authorisation may fill (Part 2, 7.5.1) without those that
// the TCG registry sets aside for storage and endorsement keys.
func isOwnerPersistent(handle uint32) bool { return handle >= 0x81020000 && handle <= 0x817fffff }

// Close waits for the running operation, at most as long as its deadline, and disconnects. Later calls return [ErrClosed].
func (d *Device) Close() error {
	var err error
	d.close.Do(func() {
		close(d.done)
		<-d.turn // never returned
		err = d.link.close(d.config.Timeout)
	})
	if err != nil {
		return fmt.Errorf("tpm: close: %w", err)
	}
	return nil
}

// do runs one operation when its turn has come.
func (d *Device) do(ctx context.Context, operation string, f func(*conn) error) error {
	if err := d.acquire(ctx); err != nil {
		return fmt.Errorf("tpm: %s: %w", operation, err)
	}
	defer func() { d.turn <- struct{}{} }()
	c := &conn{ctx: ctx, device: d}
	err := d.clean(c)
	if err == nil {
		err = f(c)
	}
	if c.broken {
		d.suspect = true
		d.forget()
	}
	if err != nil {
		return fmt.Errorf("tpm: %s: %w", operation, err)
	}
	return nil
}

// forget makes the next use compare AK, counter and SRK with the TPM again. What was pinned stays pinned.
func (d *Device) forget() { d.akChecked, d.counterChecked, d.srkChecked = false, false, false }

func (d *Device) acquire(ctx context.Context) error {
	select {
	case <-d.done: // also when a turn is to be had
		return ErrClosed
	default:
	}
	timer := time.NewTimer(d.config.Timeout)
	defer timer.Stop()
	select {
	case <-d.turn:
		return nil
	case <-d.done:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	case <-timer.C:
		return ErrBusy
	}
}

// clean frees what a predecessor, or a command whose response was lost, left in the TPM.
func (d *Device) clean(c *conn) error {
	if !d.suspect {
		return nil
	}
	for _, first := range []uint32{firstHMACSession, firstTransient} {
		handles, err := listHandles(c, first)
		if err != nil {
			return err
		}
		for _, h := range handles {
			if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(c); err != nil {
				return fmt.Errorf("flush %#08x: %w", uint32(h), err)
			}
		}
	}
	d.suspect = false
	return nil
}

// Ranges of handles (Part 2, 7.2).
const (
	firstHMACSession = 0x02000000 // TPM_CAP_HANDLES lists policy sessions here too (Part 3, 30.2), with handles of their own kind
	policySession    = 0x03
	firstTransient   = 0x80000000
	firstEK          = 0x81010000
	maxHandles       = 64
)

func listHandles(c *conn, first uint32) ([]tpm2.TPMHandle, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: maxHandles}.Execute(c)
	if err != nil {
		return nil, fmt.Errorf("list handles: %w", err)
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return nil, fmt.Errorf("list handles: %w", err)
	}
	handles := list.Handle
	for i, h := range handles {
		if kind := uint32(h) >> 24; kind != first>>24 && (kind != policySession || first != firstHMACSession) {
			return handles[:i], nil // the list goes on with the next range
		}
	}
	return handles, nil
}

// pinned compares a name with the one configured and the one seen before, where there are such.
func pinned(what string, name, configured, seen []byte) error {
	for _, want := range [][]byte{configured, seen} {
		if len(want) != 0 && !bytes.Equal(name, want) {
			return fmt.Errorf("%s: %w: name is %x, want %x", what, ErrChanged, name, want)
		}
	}
	return nil
}

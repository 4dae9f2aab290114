package hsm

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/miekg/pkcs11"
)

// examining asks a module's process one step after the other.
type examining struct {
	process *process
	timeout time.Duration
	found   *Examination
}

func (x *examining) run(ctx context.Context, o *opening, pinErr error, labels []string) {
	if !x.step(ctx, request{Step: StepModule, Open: o}) || !x.step(ctx, request{Step: StepToken}) {
		return
	}
	_ = x.step(ctx, request{Step: StepMechanisms}) // keys can be looked at all the same
	if !x.found.take(StepPINFile, pinErr) {
		return
	}
	if err := x.found.PIN.spare(); err != nil {
		x.found.take(StepLogin, err)
		return
	}
	if !x.process.alive() || !x.step(ctx, request{Step: StepLogin}) {
		return
	}
	for _, label := range labels {
		if !x.step(ctx, request{Step: StepKeys, Label: label}) {
			return
		}
	}
}

func (x *examining) step(ctx context.Context, q request) bool {
	q.Op = opExamine
	r, err := x.process.ask(ctx, x.timeout, q, func() {})
	if err == nil {
		x.found.merge(r)
		if q.Step == StepKeys {
			x.found.Keys[q.Label] = r.Found
		}
	}
	return x.found.take(q.Step, err)
}

// examiner is the other side, in the process of the module. It uses the library as it is, and opens no session that could write.
type examiner struct {
	open    *opening
	raw     *pkcs11.Ctx
	slot    uint
	info    Info
	pin     PINState
	session session
}

// examine takes one step after the other. The end of the pipe ends the process, even if a step hangs.
func (s *server) examine(requests io.Reader, first request) error {
	steps, done := make(chan request, 1), make(chan struct{})
	go func() { // ends with the process, if the module does not return
		defer close(done)
		x := &examiner{open: first.Open}
		for q := range steps {
			r, err := x.take(q)
			if err != nil {
				r = reply{Error: failed(err)}
			}
			r.ID = q.ID
			_ = s.answer(r) // a pipe that is closed ends examine too
		}
		x.leave()
	}()
	for q, err := first, error(nil); ; q, err = next(requests) {
		if err == nil {
			steps <- q
			continue
		}
		close(steps)
		select {
		case <-done:
		case <-time.After(farewell):
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
}

func next(requests io.Reader) (q request, err error) {
	err = readFrame(requests, &q)
	return q, err
}

func (x *examiner) take(q request) (reply, error) {
	if (x.raw == nil) != (q.Step == StepModule) || x.open == nil {
		return reply{}, fmt.Errorf("step %q out of order", q.Step)
	}
	switch q.Step {
	case StepModule:
		return reply{}, x.load()
	case StepToken:
		return x.look()
	case StepMechanisms:
		return x.mechanisms()
	case StepLogin:
		return reply{}, x.login()
	case StepKeys:
		found, err := x.keys(q.Label)
		return reply{Found: found}, err
	case StepPINFile: // the other side's
	}
	return reply{}, fmt.Errorf("unknown step %q", q.Step)
}

func (x *examiner) load() error {
	m, err := modules.load(x.open.Module)
	if err != nil {
		return err
	}
	if err := m.raw.Initialize(); err != nil {
		return fmt.Errorf("initialise: %w", err)
	}
	x.raw = m.raw
	return nil
}

func (x *examiner) look() (reply, error) {
	slot, token, err := (&module{raw: x.raw}).findSlot(x.open.Token)
	if err != nil {
		return reply{}, err
	}
	library, err := x.raw.GetInfo()
	if err != nil {
		return reply{}, fmt.Errorf("library info: %w", err)
	}
	x.slot, x.info, x.pin = slot, newInfo(token, library), pinState(token.Flags)
	x.info.LoginTriesLow = x.pin.Low
	return reply{Info: &x.info, PIN: &x.pin}, nil
}

func (x *examiner) mechanisms() (reply, error) {
	offered, err := algorithms(x.raw, x.slot)
	x.info.Algorithms = offered
	return reply{Info: &x.info}, err
}

func (x *examiner) login() error {
	if err := x.pin.spare(); err != nil {
		return err
	}
	handle, err := x.raw.OpenSession(x.slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return fmt.Errorf("open session: %w", err)
	}
	x.session = session{raw: x.raw, handle: handle}
	switch err := x.raw.Login(handle, pkcs11.CKU_USER, x.open.PIN); {
	case aboutPIN(err):
		return fmt.Errorf("%w: %w", ErrPIN, err)
	case err != nil:
		return fmt.Errorf("log in: %w", err)
	}
	return nil
}

func (x *examiner) keys(label string) ([]Found, error) {
	handles, err := x.session.find(maxFound, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
	if err != nil {
		return nil, err
	}
	out := make([]Found, 0, len(handles))
	for _, h := range handles {
		f, err := x.session.inspect(h, label)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", label, err)
		}
		out = append(out, f)
	}
	return out, nil
}

// inspect reads what a private key is and may do.
func (s session) inspect(key pkcs11.ObjectHandle, label string) (f Found, err error) {
	if f.Sensitive, err = s.flag(key, pkcs11.CKA_SENSITIVE); err != nil {
		return f, err
	}
	if f.Extractable, err = s.flag(key, pkcs11.CKA_EXTRACTABLE); err != nil {
		return f, err
	}
	if f.Uses, err = s.uses(key); err != nil {
		return f, err
	}
	got, err := s.publicHalf(key, URI{object: label})
	if err == nil {
		f.Public, err = x509.MarshalPKIXPublicKey(got.public)
	}
	if err != nil {
		f.Problem = failed(err)
	}
	return f, nil
}

// leave logs out.
func (x *examiner) leave() {
	if x.raw != nil {
		_ = x.raw.Finalize() // the process ends all the same
	}
}

func newInfo(token pkcs11.TokenInfo, library pkcs11.Info) Info {
	return Info{
		Manufacturer: token.ManufacturerID,
		Model:        token.Model,
		Serial:       token.SerialNumber,
		Firmware:     fmt.Sprintf("%d.%d", token.FirmwareVersion.Major, token.FirmwareVersion.Minor),
		Library: strings.Join(strings.Fields(fmt.Sprintf("%s %s %d.%d", library.ManufacturerID, library.LibraryDescription,
			library.LibraryVersion.Major, library.LibraryVersion.Minor)), " "),
	}
}

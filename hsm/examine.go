package hsm

import (
	"context"
	"crypto"
	"fmt"
	"log/slog"

	"github.com/miekg/pkcs11"
)

// Step is a part of an examination.
type Step string

// The steps of [Examine], in their order.
const (
	StepModule     Step = "module"     // the library loads and initialises
	StepToken      Step = "token"      // one slot holds a token of that label
	StepMechanisms Step = "mechanisms" // it lists what it can do
	StepPINFile    Step = "pin_file"   // the PIN can be read
	StepLogin      Step = "login"      // the token takes it
	StepKeys       Step = "keys"       // the keys can be looked at
)

// Examination is what [Examine] found out.
type Examination struct {
	Info  Info
	PIN   PINState
	Keys  map[string][]Found // by label, at most maxFound
	steps map[Step]error
}

// PINState is what the token says of its user PIN.
type PINState struct{ Low, FinalTry, Locked bool }

// Found is a private key as a token describes it.
type Found struct {
	Sensitive   bool     `json:"sensitive"`
	Extractable bool     `json:"extractable"`
	Uses        []string `json:"uses"`              // such as sign, decrypt
	Public      []byte   `json:"public,omitempty"`  // SubjectPublicKeyInfo, as PKIX
	Problem     *failure `json:"problem,omitempty"` // why there is no Public
}

// Done tells whether a step was taken, and how it ended.
func (e *Examination) Done(s Step) (taken bool, err error) {
	err, taken = e.steps[s]
	return taken, err
}

// Key is the public half. [ErrUnsupported] means that it is of another kind than this package signs with.
func (f Found) Key() (Algorithm, crypto.PublicKey, error) {
	if f.Problem != nil {
		return 0, nil, f.Problem
	}
	r := reply{Public: f.Public}
	return r.publicHalf()
}

// maxFound is enough to tell one key from several.
const maxFound = 3

// Examine looks at a token, and at the keys of these labels, without changing anything, and goes as far as it can. The module always
// runs in a process of its own, Config.Process, which is ended with the first step that does not return within Config.Timeout
// ([ErrHung]). The PIN is presented once at most, and never where the token says that it was entered wrongly, has one try left or
// is locked ([ErrPIN]).
func Examine(ctx context.Context, cfg Config, labels []string, log *slog.Logger) Examination {
	e := Examination{Keys: map[string][]Found{}, steps: map[Step]error{}}
	module, err := findModule(cfg.Module)
	if err == nil {
		err = checkLabel("token", cfg.Token, maxLabel)
	}
	if err != nil {
		e.steps[StepModule] = fmt.Errorf("%w: %w", ErrConfig, err)
		return e
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	p, err := spawn(cfg.Process, log, func(*process) {})
	if err != nil {
		e.steps[StepModule] = fmt.Errorf("start the module's process: %w", err)
		return e
	}
	pin, pinErr := cfg.userPIN()
	if pinErr != nil {
		pinErr = fmt.Errorf("%w: %w", ErrConfig, pinErr)
	}
	x := examining{process: p, timeout: cfg.Timeout, found: &e}
	x.run(ctx, &opening{Module: module, Token: cfg.Token, PIN: pin, PINFile: cfg.PINFile}, pinErr, labels)
	_ = p.requests.Close() // the end of it, to the process
	select {
	case <-p.ended:
	case <-ctx.Done():
		p.end(ctx.Err())
	}
	return e
}

// pinState reads CK_TOKEN_INFO (PKCS #11 v2.40 §3.2).
func pinState(flags uint) PINState {
	return PINState{
		Low: flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0, FinalTry: flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0, Locked: flags&pkcs11.CKF_USER_PIN_LOCKED != 0,
	}
}

// spare tells why the PIN must not be presented.
func (s PINState) spare() error {
	switch {
	case s.Locked:
		return fmt.Errorf("%w: it is locked (CKF_USER_PIN_LOCKED)", ErrPIN)
	case s.FinalTry:
		return fmt.Errorf("%w: one try is left (CKF_USER_PIN_FINAL_TRY)", ErrPIN)
	case s.Low:
		return fmt.Errorf("%w: it was entered wrongly before (CKF_USER_PIN_COUNT_LOW)", ErrPIN)
	default:
		return nil
	}
}

func (e *Examination) take(s Step, err error) bool {
	e.steps[s] = err
	return err == nil
}

func (e *Examination) merge(r reply) {
	if r.Info != nil {
		e.Info = *r.Info
	}
	if r.PIN != nil {
		e.PIN = *r.PIN
	}
}

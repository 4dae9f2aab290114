package hsm

import (
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// InitToken initialises a token in a free slot of a module (C_InitToken, C_InitPIN): an act of provisioning, for a
// process that has no token of the module open. A label that exists is refused with ErrAmbiguous. The PINs pass through
// memory only; no command line ever holds them.
func InitToken(module, label, soPIN, userPIN string) error {
	if err := checkLabel("label", label, maxLabel); err != nil {
		return fmt.Errorf("hsm: init token: %w: %w", ErrConfig, err)
	}
	p := pkcs11.New(module)
	if p == nil {
		return fmt.Errorf("hsm: init token: module %s cannot be loaded: %w", module, ErrConfig)
	}
	defer p.Destroy()
	if err := p.Initialize(); err != nil {
		return fmt.Errorf("hsm: init token: %w", err)
	}
	defer func() { _ = p.Finalize() }() // the process goes on without the module
	if err := initToken(p, label, soPIN, userPIN); err != nil {
		return fmt.Errorf("hsm: init token %q: %w", label, err)
	}
	return nil
}

func initToken(p *pkcs11.Ctx, label, soPIN, userPIN string) error {
	free, taken, err := findSlots(p, label)
	if err != nil {
		return err
	}
	if len(taken) > 0 {
		return ErrAmbiguous
	}
	if len(free) == 0 {
		return fmt.Errorf("no free slot: %w", ErrUnavailable)
	}
	if err := p.InitToken(free[0], soPIN, label); err != nil {
		return err
	}
	// The slot may have got another number.
	_, taken, err = findSlots(p, label)
	if err != nil {
		return err
	}
	if len(taken) != 1 {
		return ErrUnavailable
	}
	return initPIN(p, taken[0], soPIN, userPIN)
}

// findSlots gives the slots without a token and those whose token has the label.
func findSlots(p *pkcs11.Ctx, label string) (free, taken []uint, err error) {
	slots, err := p.GetSlotList(true)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range slots {
		info, err := p.GetTokenInfo(s)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0:
			free = append(free, s)
		case strings.TrimRight(info.Label, " \x00") == label:
			taken = append(taken, s)
		}
	}
	return free, taken, nil
}

func initPIN(p *pkcs11.Ctx, slot uint, soPIN, userPIN string) error {
	session, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return err
	}
	defer func() { _ = p.CloseSession(session) }() // C_Finalize follows
	if err := p.Login(session, pkcs11.CKU_SO, soPIN); err != nil {
		return err
	}
	defer func() { _ = p.Logout(session) }() // likewise
	return p.InitPIN(session, userPIN)
}

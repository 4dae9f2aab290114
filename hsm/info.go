package hsm

import (
	"context"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Info is what the token says of itself. It is the device's word, good for looking up advisories and for logs.
type Info struct {
	Manufacturer string // of the token, as in CK_TOKEN_INFO
	Model        string
	Serial       string
	Firmware     string // major.minor
	Library      string // manufacturer, description and major.minor of the PKCS#11 library
	Algorithms   []Algorithm
	// LoginTriesLow: a wrong PIN was presented since the last right one (CKF_USER_PIN_COUNT_LOW).
	LoginTriesLow bool
}

// Info asks the token and the library.
func (t *Token) Info(ctx context.Context) (Info, error) {
	info, err := t.describeItself(ctx)
	if err != nil {
		return Info{}, fmt.Errorf("hsm: describe token %q: %w", t.label, err)
	}
	return info, nil
}

func (t *Token) describeItself(ctx context.Context) (Info, error) {
	if t.apart != nil {
		return t.apart.info(ctx)
	}
	return do(ctx, t, t.describe)
}

func (t *Token) describe(l *live, s session) (Info, error) {
	token, err := s.raw.GetTokenInfo(l.slot)
	if err != nil {
		return Info{}, fmt.Errorf("token info: %w", err)
	}
	library, err := s.raw.GetInfo()
	if err != nil {
		return Info{}, fmt.Errorf("library info: %w", err)
	}
	info := newInfo(token, library)
	info.LoginTriesLow = l.triesLow
	info.Algorithms, err = algorithms(s.raw, l.slot)
	return info, err
}

// algorithms lists the kinds of key that the token can both generate and sign with. It does not tell curves apart:
// PKCS #11 has no list of them.
func algorithms(raw *pkcs11.Ctx, slot uint) ([]Algorithm, error) {
	mechanisms, err := raw.GetMechanismList(slot)
	if err != nil {
		return nil, fmt.Errorf("list mechanisms: %w", err)
	}
	has := map[uint]bool{}
	for _, m := range mechanisms {
		has[m.Mechanism] = true
	}
	var found []Algorithm
	for _, a := range []Algorithm{P256, P384, Ed25519} {
		if has[a.generation()] && has[a.mechanism()] {
			found = append(found, a)
		}
	}
	return found, nil
}

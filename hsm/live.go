package hsm

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
)

// live is one opened state of a token, from login to the next recovery. Handles are valid within it only. When err is
// set the token is not open, and the rest is zero.
type live struct {
	err      error
	c11      *crypto11.Context
	slot     uint
	sessions chan pkcs11.SessionHandle // idle ones; each is used by one goroutine at a time
	gone     chan struct{}             // closed with the token, for those who wait for a session
	opened   int32                     // sessions, in use and idle
	triesLow bool                      // before this login
}

// open finds the token, logs in and fills the pool. The caller holds the module exclusively.
func (m *module) open(t *Token) (*live, error) {
	c11, err := m.configure(t)
	if err != nil {
		return nil, fmt.Errorf("hsm: open token %q of %s: %w: %w", t.label, m.path, ErrUnavailable, err)
	}
	l := &live{c11: c11, sessions: make(chan pkcs11.SessionHandle, t.sessions), gone: make(chan struct{})}
	if err := m.fill(t, l); err != nil {
		m.shut(l)
		if errors.Is(err, ErrPIN) {
			t.refused = fmt.Errorf("hsm: open token %q of %s: PIN of %s: %w", t.label, m.path, t.pinFile, err)
			return nil, t.refused
		}
		return nil, fmt.Errorf("hsm: open token %q of %s: %w", t.label, m.path, err)
	}
	return l, nil
}

// configure lets crypto11 load and initialise the module, find the token and keep one session open. Login is ours:
// crypto11 takes CKR_USER_ALREADY_LOGGED_IN for success, whatever the PIN.
func (m *module) configure(t *Token) (c11 *crypto11.Context, err error) {
	defer func() {
		// A token that reports room for a single session makes crypto11's pool panic on its size.
		if r := recover(); r != nil {
			c11, err = nil, fmt.Errorf("crypto11 refuses the token: %v", r)
		}
	}()
	return crypto11.Configure(&crypto11.Config{
		Path:              m.path,
		TokenLabel:        t.label,
		LoginNotSupported: true,
		MaxSessions:       2, // one to keep the login, and a pool that is not empty, which is not used
		PoolWaitTimeout:   t.timeout,
	})
}

func (m *module) fill(t *Token, l *live) error {
	slot, info, err := m.findSlot(t.label)
	if err != nil {
		return err
	}
	l.slot, l.triesLow = slot, info.Flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0
	first, err := m.raw.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return fmt.Errorf("open session: %w", err)
	}
	l.sessions <- first
	if err := m.login(t, first, info.Flags); err != nil {
		return err
	}
	for range cap(l.sessions) - 1 {
		s, err := m.raw.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
		if isCode(err, pkcs11.CKR_SESSION_COUNT) {
			t.log.Warn("hsm: the token has fewer sessions than configured",
				slog.String("token", t.label), slog.Int("open", len(l.sessions)), slog.Int("configured", t.sessions))
			break
		}
		if err != nil {
			return fmt.Errorf("open session: %w", err)
		}
		l.sessions <- s
	}
	l.opened = int32(len(l.sessions)) // #nosec G115 -- at most maxSessions
	return nil
}

// findSlot insists on one token of that label, where crypto11 takes the first.
func (m *module) findSlot(label string) (uint, pkcs11.TokenInfo, error) {
	slots, err := m.raw.GetSlotList(true)
	if err != nil {
		return 0, pkcs11.TokenInfo{}, fmt.Errorf("list slots: %w", err)
	}
	var slot uint
	var found []pkcs11.TokenInfo
	for _, s := range slots {
		info, err := m.raw.GetTokenInfo(s)
		if err != nil || info.Label != label {
			continue // another slot's trouble is not this token's
		}
		slot, found = s, append(found, info)
	}
	switch len(found) {
	case 0:
		return 0, pkcs11.TokenInfo{}, fmt.Errorf("%w: no slot holds it", ErrUnavailable)
	case 1:
		return slot, found[0], nil
	default:
		return 0, pkcs11.TokenInfo{}, fmt.Errorf("%w: %d tokens have this label", ErrAmbiguous, len(found))
	}
}

// login presents the PIN at most once, and never a token's last try: a daemon that its supervisor restarts again and
// again would lock the token.
func (m *module) login(t *Token, s pkcs11.SessionHandle, flags uint) error {
	switch {
	case flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: it is locked (CKF_USER_PIN_LOCKED)", ErrPIN)
	case flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%w: one try is left (CKF_USER_PIN_FINAL_TRY); log in by hand first", ErrPIN)
	}
	for _, peer := range m.tokens {
		if peer != t && peer.label == t.label && peer.refused != nil && samePIN(peer, t) {
			return fmt.Errorf("%w: the token has refused this PIN before", ErrPIN)
		}
	}
	err := m.raw.Login(s, pkcs11.CKU_USER, t.pin)
	switch {
	case err == nil:
		return nil
	case isCode(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN):
		return m.checkPeer(t)
	case aboutPIN(err):
		return fmt.Errorf("%w: %w", ErrPIN, err)
	default:
		return fmt.Errorf("log in: %w", err)
	}
}

// checkPeer stands in for the login that the token does not check: login belongs to the process, not to the session
// (PKCS #11 v2.40 §2.6.4), so the PIN must be the one that the token accepted from us before.
func (m *module) checkPeer(t *Token) error {
	for _, peer := range m.tokens {
		if peer == t || peer.label != t.label || peer.live.Load().err != nil {
			continue
		}
		if samePIN(peer, t) {
			return nil
		}
		return fmt.Errorf("%w: it differs from the PIN that this process is logged in with", ErrPIN)
	}
	return fmt.Errorf("%w: other code in this process is logged in already, so the PIN cannot be checked", ErrPIN)
}

func samePIN(a, b *Token) bool { return subtle.ConstantTimeCompare([]byte(a.pin), []byte(b.pin)) == 1 }

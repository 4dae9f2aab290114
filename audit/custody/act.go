package custody

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/signet-pki/signet/audit/record"
)

// Kind is what is to be done. The zero Kind is refused.
type Kind string

// The kinds of acts.
const (
	Init                 Kind = "init"
	Replenish            Kind = "replenish"
	RotateAuditKey       Kind = "rotate_audit_key"
	RotateAttestationKey Kind = "rotate_attestation_key"
	RevokeCA             Kind = "revoke_ca"
	Restore              Kind = "restore"
	ChangeCustodians     Kind = "change_custodians"
)

var kinds = []Kind{Init, Replenish, RotateAuditKey, RotateAttestationKey, RevokeCA, Restore, ChangeCustodians}

// Bounds of an act.
const (
	MaxAct      = 16 << 10
	MaxLifetime = 90 * 24 * time.Hour
	format      = "signet/act@v1"
	timeLayout  = "2006-01-02T15:04:05Z"
)

// Act is what custodians are asked to agree to.
type Act struct {
	Kind       Kind
	ID         string // 16 to 64 of 0-9 a-f and -, chosen anew for each act: it is taken once
	Origin     string // of the log: an act is of one appliance
	Custodians string // Set.ID of those who are asked
	Created    time.Time
	NotAfter   time.Time       // both to the second
	Detail     json.RawMessage // an object, by kind
}

// wireAct is Act as it is signed. The order of fields is the order in which they are written.
type wireAct struct {
	Format     string          `json:"format"`
	Kind       Kind            `json:"kind"`
	ID         string          `json:"id"`
	Origin     string          `json:"origin"`
	Custodians string          `json:"custodians"`
	Created    string          `json:"created"`
	NotAfter   string          `json:"not_after"`
	Detail     json.RawMessage `json:"detail"`
}

// Marshal gives the exact bytes that custodians sign: JSON with an indent of two spaces, so that they can read it.
func (a Act) Marshal() ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("%w: act: %w", ErrInvalid, err)
	}
	compact, err := encode(wireAct{
		Format: format, Kind: a.Kind, ID: a.ID, Origin: a.Origin, Custodians: a.Custodians,
		Created: a.Created.UTC().Format(timeLayout), NotAfter: a.NotAfter.UTC().Format(timeLayout), Detail: a.Detail,
	})
	if err != nil {
		return nil, err
	}
	// The detail is anybody's JSON: held to the strictness of entries before it is signed.
	if _, err := record.DecodeBody[wireAct](record.Envelope{Type: record.TypeAct, Body: compact}); err != nil {
		return nil, fmt.Errorf("%w: act: %w", ErrInvalid, err)
	}
	var text bytes.Buffer
	if err := json.Indent(&text, compact, "", "  "); err != nil {
		return nil, fmt.Errorf("%w: act: %w", ErrInvalid, err)
	}
	text.WriteByte('\n')
	if text.Len() > MaxAct {
		return nil, fmt.Errorf("%w: the act has %d bytes, at most %d", ErrInvalid, text.Len(), MaxAct)
	}
	return text.Bytes(), nil
}

// ParseAct reads exactly what Marshal writes.
func ParseAct(text []byte) (Act, error) {
	if len(text) > MaxAct {
		return Act{}, fmt.Errorf("%w: the act has %d bytes, at most %d", ErrInvalid, len(text), MaxAct)
	}
	w, err := record.DecodeBody[wireAct](record.Envelope{Type: record.TypeAct, Body: text})
	if err != nil {
		return Act{}, fmt.Errorf("%w: act: %w", ErrInvalid, err)
	}
	if w.Format != format {
		return Act{}, fmt.Errorf("%w: the act's format is %.40q, not %s", ErrInvalid, w.Format, format)
	}
	a := Act{Kind: w.Kind, ID: w.ID, Origin: w.Origin, Custodians: w.Custodians, Detail: w.Detail}
	for _, t := range []struct {
		text string
		to   *time.Time
	}{{w.Created, &a.Created}, {w.NotAfter, &a.NotAfter}} {
		if *t.to, err = time.Parse(timeLayout, t.text); err != nil {
			return Act{}, fmt.Errorf("%w: act: a time is not like %s", ErrInvalid, timeLayout)
		}
	}
	again, err := a.Marshal()
	if err == nil && !bytes.Equal(again, text) {
		err = fmt.Errorf("%w: not the one way to write the act", ErrInvalid)
	}
	if err != nil {
		return Act{}, err
	}
	return a, nil
}

var (
	validID  = regexp.MustCompile(`^[0-9a-f-]{16,64}$`)
	validSet = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func (a Act) check() error {
	switch {
	case !slices.Contains(kinds, a.Kind):
		return fmt.Errorf("unknown kind %.40q", string(a.Kind))
	case !validID.MatchString(a.ID):
		return errors.New("id: 16 to 64 of 0-9 a-f and -")
	case !validOrigin(a.Origin):
		return errors.New("origin: 1 to 255 printable bytes without blanks")
	case !validSet.MatchString(a.Custodians):
		return errors.New("custodians: 64 lower-case hex digits")
	case !inSeconds(a.Created) || !inSeconds(a.NotAfter):
		return errors.New("times are to the second, of the years 1 to 9999")
	case !a.Created.Before(a.NotAfter) || a.NotAfter.Sub(a.Created) > MaxLifetime:
		return fmt.Errorf("not_after: after created, by at most %s", MaxLifetime)
	case len(a.Detail) == 0 || a.Detail[0] != '{':
		return errors.New("detail: an object")
	}
	return nil
}

func inSeconds(t time.Time) bool {
	return t.Nanosecond() == 0 && t.UTC().Year() >= 1 && t.UTC().Year() <= 9999
}

func validOrigin(s string) bool {
	for _, r := range s {
		if unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return false
		}
	}
	return s != "" && len(s) <= 255 && utf8.ValidString(s)
}

// Successors is the set that an act of kind [ChangeCustodians] puts in the place of the one that agrees to it.
func (a Act) Successors() (Set, error) {
	if a.Kind != ChangeCustodians {
		return Set{}, fmt.Errorf("%w: the act is %s, not %s", ErrInvalid, a.Kind, ChangeCustodians)
	}
	d, err := record.DecodeBody[struct {
		Custodians json.RawMessage `json:"custodians"`
	}](record.Envelope{Type: record.TypeAct, Body: a.Detail})
	if err != nil {
		return Set{}, fmt.Errorf("%w: detail: %w", ErrInvalid, err)
	}
	var text bytes.Buffer // the act has it indented
	if err := json.Compact(&text, d.Custodians); err != nil {
		return Set{}, fmt.Errorf("%w: detail: %w", ErrInvalid, err)
	}
	return ParseSet(text.Bytes())
}

// Check says whether the act is for this log and may still be carried out at the time now. Clocks may be apart by skew.
func (a Act) Check(kind Kind, origin string, now time.Time, skew time.Duration) error {
	switch {
	case a.Kind != kind:
		return fmt.Errorf("%w: the act is %s, not %s", ErrInvalid, a.Kind, kind)
	case a.Origin != origin:
		return fmt.Errorf("%w: the act is of the log %.80q", ErrInvalid, a.Origin)
	case now.Before(a.Created.Add(-skew)):
		return fmt.Errorf("%w: it was created at %s", ErrExpired, a.Created.UTC().Format(timeLayout))
	case now.After(a.NotAfter):
		return fmt.Errorf("%w: it ended at %s", ErrExpired, a.NotAfter.UTC().Format(timeLayout))
	}
	return nil
}

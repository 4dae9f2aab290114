package appliance

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/tpm/quote"
)

// records are what the first ceremony has done, one file each, none of which is ever replaced: killed at any point, it goes on from
// them. They hold no secrets.
type records struct{ dir string }

var _ ceremony.Records = records{}

// The files. An intent says that a key is about to be made: one that is then found in its device is this ceremony's.
const (
	recordBegin  = "begin.json"
	recordTPM    = "tpm.json"
	recordLog    = "log.json"
	recordOver   = "over.json"
	recordIntent = "intent-"
	recordKey    = "key-"
	recordCert   = "certificate-"
)

// beginning is the first record: what was agreed to, by whom, and when.
type beginning struct {
	Time       time.Time `json:"time"`
	Plan       []string  `json:"plan"`
	Act        []byte    `json:"act,omitempty"`
	Signatures [][]byte  `json:"signatures,omitempty"`
}

// madeKey is a key that was made.
type madeKey struct {
	URI  string `json:"uri"`
	SPKI []byte `json:"spki"`
}

// begunLog is the log that is about to be made: its first entries follow from the records and this time, and have that root.
type begunLog struct {
	Time time.Time `json:"time"`
	Root []byte    `json:"root"`
}

// get reads a record into v; false: there is none.
func (r records) get(name string, v any) (bool, error) {
	b, err := os.ReadFile(filepath.Join(r.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("%s: %w", filepath.Join(r.dir, name), err)
	}
	return true, nil
}

// put writes one that is not there yet; it is durable when this returns nil.
func (r records) put(name string, v any) error {
	if r.dir == "" {
		return errors.New("there is no place for the ceremony's records")
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return durable.Create(filepath.Join(r.dir, name), append(b, '\n'), 0o600)
}

// begun is how it began, if it has; over: there is nothing left to do.
func (r records) begun() (b *beginning, over bool, err error) {
	var got beginning
	found, err := r.get(recordBegin, &got)
	if err != nil || !found {
		return nil, false, err
	}
	over, err = r.get(recordOver, new(struct{}))
	return &got, over, err
}

// Certificate reads a certificate of an earlier run.
func (r records) Certificate(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(r.dir, recordCert+name+".pem"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: no certificate", filepath.Join(r.dir, recordCert+name+".pem"))
	}
	return block.Bytes, nil
}

// Keep writes one.
func (r records) Keep(name string, der []byte) error {
	return durable.Create(filepath.Join(r.dir, recordCert+name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
}

// intend announces a key.
func (r records) intend(label string) error {
	return r.put(recordIntent+label+".json", struct{}{})
}

func (r records) intended(label string) (bool, error) {
	return r.get(recordIntent+label+".json", new(struct{}))
}

func bindingText(b quote.Binding) ([]byte, error) {
	text, err := json.MarshalIndent(b, "", "  ")
	return append(text, '\n'), err
}

// Package backup is the file that an appliance is restored from: one tar archive whose data only a threshold of custodians can read.
//
// The data are encrypted with age to a key made for this file. That key is encrypted, for each group of custodians that is large enough,
// to one of them after the other, in layers: each takes off their own with the stock age command, and nobody alone reads anything. What a
// file holds is listed in it, with digests, and compared when it is read; [Create] reads back what it wrote.
//
// It knows nothing of logs and keys of an appliance. It refuses to replace a file, more than [MaxGroups] groups, and whatever
// is not the format's. Memory does not grow with the data. The format stands in docs/formats/backup.md.
package backup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"filippo.io/age"
)

// Format is the first field of a file's description.
const Format = "signet/backup@v1"

// MaxGroups bounds for how many groups of custodians the key is encrypted.
const MaxGroups = 256

const (
	maxCustodians  = 16
	maxDescription = 64 << 10
)

var (
	// ErrFormat: not what this package writes, or not any more.
	ErrFormat = errors.New("backup: not an intact backup")
	// ErrGroups: too few custodians take backups, or there are too many groups of them.
	ErrGroups = errors.New("backup: groups of custodians")
)

// Custodian takes part in opening a backup by an age recipient, age1….
type Custodian struct {
	Name      string `json:"name"`
	Recipient string `json:"recipient"`
}

// Description is what anybody can read of a file. The encrypted data tell its digest.
type Description struct {
	Format     string      `json:"format"`
	Origin     string      `json:"origin"`
	Checkpoint []byte      `json:"checkpoint"` // signed note over the entries in it
	Made       time.Time   `json:"made"`
	Set        string      `json:"set"`        // digest of all custodians, as acts name them
	Threshold  int         `json:"threshold"`  // custodians of a group
	Custodians []Custodian `json:"custodians"` // those who take backups; groups count them from 1
}

// parseDescription refuses another spelling than ours.
func parseDescription(text []byte) (Description, error) {
	var d Description
	in := json.NewDecoder(bytes.NewReader(text))
	in.DisallowUnknownFields()
	if err := in.Decode(&d); err != nil {
		return d, fmt.Errorf("%w: description: %w", ErrFormat, err)
	}
	if again, err := d.marshal(); err != nil || !bytes.Equal(again, text) {
		return d, fmt.Errorf("%w: description in another spelling", ErrFormat)
	}
	if _, err := d.groups(); err != nil {
		return d, err
	}
	return d, nil
}

func (d Description) marshal() ([]byte, error) {
	text, err := json.MarshalIndent(d, "", "  ")
	return append(text, '\n'), err
}

// group is some custodians, by number from 1, in the order in which they take off layers.
type group []int

// name is the file of a group's layers.
func (g group) name() string {
	text := "layers/"
	for i, n := range g {
		if i > 0 {
			text += "-"
		}
		text += fmt.Sprint(n)
	}
	return text + ".age"
}

// groups lists every group of Threshold custodians.
func (d Description) groups() ([]group, error) {
	n, k := len(d.Custodians), d.Threshold
	switch {
	case d.Format != Format:
		return nil, fmt.Errorf("%w: format %.40q", ErrFormat, d.Format)
	case k < 2 || n > maxCustodians:
		return nil, fmt.Errorf("%w: %d of %d", ErrGroups, k, n)
	case n < k:
		return nil, fmt.Errorf("%w: %d custodians have a recipient for backups, and it takes %d", ErrGroups, n, k)
	}
	var out []group
	var choose func(from int, have group) error
	choose = func(from int, have group) error {
		if len(have) == k {
			if len(out) == MaxGroups {
				return fmt.Errorf("%w: more than %d groups of %d among %d custodians: give fewer of them a recipient", ErrGroups, MaxGroups, k, n)
			}
			out = append(out, slices.Clone(have))
			return nil
		}
		for i := from; i <= n; i++ {
			if err := choose(i+1, append(have, i)); err != nil {
				return err
			}
		}
		return nil
	}
	return out, choose(1, nil)
}

// recipients parses those of a group.
func (d Description) recipients(g group) ([]*age.X25519Recipient, error) {
	out := make([]*age.X25519Recipient, len(g))
	for i, n := range g {
		c := d.Custodians[n-1]
		r, err := age.ParseX25519Recipient(c.Recipient)
		if err != nil {
			return nil, fmt.Errorf("%w: recipient of %s: %w", ErrGroups, c.Name, err)
		}
		out[i] = r
	}
	return out, nil
}

// layered encrypts the file's key to each of a group, the last one first.
func (d Description) layered(g group, identity *age.X25519Identity) ([]byte, error) {
	to, err := d.recipients(g)
	if err != nil {
		return nil, err
	}
	text := []byte(identity.String() + "\n")
	for _, r := range slices.Backward(to) {
		var out bytes.Buffer
		w, err := age.Encrypt(&out, r)
		if err != nil {
			return nil, fmt.Errorf("backup: %w", err)
		}
		_, err = w.Write(text)
		if err := errors.Join(err, w.Close()); err != nil {
			return nil, fmt.Errorf("backup: %w", err)
		}
		text = out.Bytes()
	}
	return text, nil
}

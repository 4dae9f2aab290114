package appliance

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/internal/durable"
)

// ErrApprovals: too few custodians agreed so far, and nothing was made. The text says how many are missing, and how they sign.
var ErrApprovals = errors.New("approvals are missing")

const (
	actFile  = "act.json"
	initLife = 7 * 24 * time.Hour // to gather the custodians in
	initSkew = time.Minute        // it is signed elsewhere, and checked here
	maxTries = 64                 // at the terminal
)

// initDetail is the detail of the act: what would be made, in the lines that a dry run prints.
type initDetail struct {
	Plan []string `json:"plan"`
}

// begin asks the custodians, if there are any, and records what they agreed to. After it keys are made.
func (i *initiation) begin(ctx context.Context, lines []string) (*beginning, error) {
	b := &beginning{Time: now(), Plan: lines}
	if i.set.Threshold() > 0 {
		var err error
		if b.Act, err = i.act(lines, b.Time); err != nil {
			return nil, err
		}
		if b.Signatures, err = i.approvals(ctx, b.Act); err != nil {
			return nil, err
		}
		b.Time = now() // people take their time
		// What does not fit into its entry must not come to light when there are keys.
		if _, err := entryOf(record.TypeAct, b.Time, record.Act{Act: b.Act, Signatures: b.Signatures}); err != nil {
			return nil, err
		}
	} else if len(i.o.Approvals) > 0 {
		return nil, errors.New("approvals were given, and the configuration has no ceremony.custodians")
	}
	return b, i.records.put(recordBegin, b)
}

// act is the one that waits for approvals, or else a new one; it is never replaced.
func (i *initiation) act(lines []string, at time.Time) ([]byte, error) {
	path := filepath.Join(i.ceremonyDir(), actFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return i.newAct(path, lines, at)
	}
	if err != nil {
		return nil, err
	}
	a, err := custody.ParseAct(text)
	if err == nil {
		err = i.fits(a, lines, at)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; remove it to have a new one written", path, err)
	}
	return text, nil
}

func (i *initiation) newAct(path string, lines []string, at time.Time) ([]byte, error) {
	detail, err := json.Marshal(initDetail{lines})
	if err != nil {
		return nil, err
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	text, err := custody.Act{
		Kind: custody.Init, ID: hex.EncodeToString(id), Origin: i.Origin, Custodians: i.set.ID(), Created: at, NotAfter: at.Add(initLife), Detail: detail,
	}.Marshal()
	if err != nil {
		return nil, err
	}
	return text, durable.Create(path, text, 0o644)
}

// fits refuses an act of another configuration, or too late.
func (i *initiation) fits(a custody.Act, lines []string, at time.Time) error {
	if err := a.Check(custody.Init, i.Origin, at, initSkew); err != nil {
		return err
	}
	detail, err := record.DecodeBody[initDetail](record.Envelope{Type: record.TypeAct, Body: a.Detail})
	if err != nil {
		return err
	}
	if err := unchanged(detail.Plan, lines); err != nil {
		return err
	}
	if a.Custodians != i.set.ID() {
		return custody.ErrOtherSet
	}
	return nil
}

// approvals gives signatures of enough custodians.
func (i *initiation) approvals(ctx context.Context, act []byte) ([][]byte, error) {
	signatures := make([][]byte, 0, len(i.o.Approvals))
	for _, path := range i.o.Approvals {
		s, err := readSignature(path)
		if err != nil {
			return nil, err
		}
		signatures = append(signatures, s)
	}
	names, err := i.set.Approved(act, signatures)
	if errors.Is(err, custody.ErrTooFew) && i.o.Terminal != nil {
		signatures, names, err = i.ask(ctx, act, signatures)
	}
	if errors.Is(err, custody.ErrTooFew) {
		return nil, fmt.Errorf("%w: %d of %d; nothing was made. %s, and run this again with --approval FILE for each",
			ErrApprovals, i.set.Threshold()-len(names), i.set.Threshold(), i.howToSign())
	}
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(i.o.Out, "approved by %s\n", strings.Join(names, ", "))
	return signatures, err
}

func (i *initiation) howToSign() string {
	return fmt.Sprintf("Custodians sign with: ssh-keygen -Y sign -n %s -f KEY %s", custody.Namespace, filepath.Join(i.ceremonyDir(), actFile))
}

// ask takes paths of signatures at the terminal, one at a time, until enough agreed, or an empty line.
func (i *initiation) ask(ctx context.Context, act []byte, signatures [][]byte) ([][]byte, []string, error) {
	if _, err := fmt.Fprintf(i.o.Out, "%s\n%s\n", act, i.howToSign()); err != nil {
		return nil, nil, err
	}
	in := bufio.NewReader(io.LimitReader(i.o.Terminal, 1<<20))
	names, err := i.set.Approved(act, signatures)
	for range maxTries {
		if !errors.Is(err, custody.ErrTooFew) {
			break
		}
		if _, err := fmt.Fprintf(i.o.Out, "%d of %d custodians agreed. File of a signature, or nothing to stop: ", len(names), i.set.Threshold()); err != nil {
			return nil, nil, err
		}
		path, readErr := line(ctx, in)
		if path == "" {
			return signatures, names, errors.Join(err, ctx.Err(), readErr)
		}
		s, badErr := readSignature(path)
		if badErr == nil {
			var more []string
			more, badErr = i.set.Approved(act, append(signatures, s))
			if badErr == nil || errors.Is(badErr, custody.ErrTooFew) {
				signatures, names, err = append(signatures, s), more, badErr
				continue
			}
		}
		if _, err := fmt.Fprintf(i.o.Out, "refused: %v\n", badErr); err != nil {
			return nil, nil, err
		}
	}
	return signatures, names, err
}

// line reads one, or gives up with the context. What still waits for the terminal then ends with the program.
func line(ctx context.Context, in *bufio.Reader) (string, error) {
	type answer struct {
		text string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		text, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		got <- answer{strings.TrimSpace(text), err}
	}()
	select {
	case a := <-got:
		return a.text, a.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// readSignature reads no more than a signature can have.
func readSignature(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("approval: %w", err)
	}
	defer f.Close() //nolint:errcheck // opened for reading
	b, err := io.ReadAll(io.LimitReader(f, custody.MaxSignature+1))
	if err != nil {
		return nil, fmt.Errorf("approval: %w", err)
	}
	return b, nil
}

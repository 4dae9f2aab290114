package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/signet-pki/signet/audit/record"
)

// fill has a child add entries until the log has that many, and kills it.
func (h *history) fill(ctx context.Context, entries int) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, "-fill", h.dir, "-entries", strconv.Itoa(entries)) //nolint:gosec // ourselves
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return errors.Join(fmt.Errorf("fill: %w", err), cmd.Wait())
	}
	progress("%s", line[:len(line)-1])
	if err := cmd.Process.Kill(); err != nil {
		return err
	}
	_ = cmd.Wait() // it was killed
	return nil
}

// fillers is how many writers fill a long log: about as many as one batch takes.
const fillers = 1024

// fillLog is the child: it adds entries to the log in dir, which it makes if need be, and then waits to be killed.
func fillLog(ctx context.Context, dir string, entries int) (err error) {
	b := &bench{tmp: filepath.Dir(dir)}
	if b.floors.key, err = readKey(dir + ".key"); err != nil {
		return err
	}
	cfg := b.logConfig(filepath.Base(dir))
	if cfg.Quoter, err = openKept(dir + ".tpm"); err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := createLog(ctx, cfg); err != nil {
			return err
		}
	}
	l, err := runLog(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	s, err := load(ctx, fillers, entries-int(l.Head().Size), self{}, func(ctx context.Context, _, i int) error { //nolint:gosec // a million
		e, err := filler(i)
		if err != nil {
			return err
		}
		_, err = l.Append(ctx, e)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("filled to %d entries: %.0f/s, %s of CPU each\n", l.Head().Size, s.rate(), s.cost())
	<-ctx.Done()
	return nil
}

// filler is one entry in ten of an issuance, else of a decision.
func filler(i int) (record.Entry, error) {
	if i%10 == 0 {
		return entry()
	}
	return decision()
}

// kept is a TPM like instant whose counter outlives its process.
type kept struct {
	instant
	path string
}

func openKept(path string) (*kept, error) {
	q := &kept{path: path}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return q, nil
	}
	if err != nil {
		return nil, err
	}
	q.counter, err = strconv.ParseUint(string(b), 10, 64)
	return q, err
}

// Increment moves the counter.
func (q *kept) Increment(ctx context.Context) (uint64, error) {
	n, err := q.instant.Increment(ctx)
	if err != nil {
		return 0, err
	}
	return n, os.WriteFile(q.path, strconv.AppendUint(nil, n, 10), 0o600)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, der, 0o600)
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	der, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return x509.ParseECPrivateKey(der)
}

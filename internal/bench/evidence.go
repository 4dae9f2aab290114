package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/signet-pki/signet/audit/bundle"
)

// bundleEntries is how many entries a bundle has at least.
const bundleEntries = 100_000

// syntheticEntries is how many entries the bundle of small decisions has.
const syntheticEntries = 1_000_000

// decisionsRow verifies a bundle of a great many small entries.
func (b *bench) decisionsRow(ctx context.Context) error {
	entries := syntheticEntries
	if b.quick {
		entries /= 10
	}
	progress("making a log of %d decisions", entries)
	s, err := newSynthetic(entries)
	if err != nil {
		return err
	}
	o, err := s.options()
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(b.tmp, "decisions.tar"))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // written and read by now
	tar := bundle.NewTar(f)
	if err := errors.Join(bundle.Write(ctx, tar, s, o), tar.Close()); err != nil {
		return err
	}
	_, _, err = b.verifyRow(ctx, "Bundle verification, decisions alone", f)
	return err
}

// bundleRow verifies the evidence of everything that was measured before: spawns and decisions, under real seals.
func (b *bench) bundleRow(ctx context.Context, server *child, w *world) error {
	if err := b.fill(ctx, server, w, bundleEntries/b.scale); err != nil {
		return err
	}
	size, err := w.logSize(ctx)
	if err != nil {
		return err
	}
	// What is not sealed yet is not in the bundle.
	if _, err := w.auditor.Receipt(ctx, uint64(size-1), true); err != nil { //nolint:gosec // it has entries
		return err
	}
	progress("exporting the bundle")
	f, err := os.Create(filepath.Join(b.tmp, "bundle.tar"))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // written and read by now
	if err := w.auditor.Export(ctx, f); err != nil {
		return err
	}
	files, entries, err := b.verifyRow(ctx, "Bundle verification", f)
	if err != nil {
		return err
	}
	b.entries = entries
	return b.diskFact(files, entries)
}

// verifyRow verifies a bundle, which is in memory by then, and gives its files and how many entries it has.
func (b *bench) verifyRow(ctx context.Context, what string, f *os.File) (files fs.FS, entries int, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if files, err = bundle.OpenTar(f, info.Size()); err != nil {
		return nil, 0, err
	}
	hashed, err := hashFile(f, info.Size())
	if err != nil {
		return nil, 0, err
	}
	samples, err := b.repeat(what, func() (sample, error) {
		m, err := begin(self{})
		if err != nil {
			return sample{}, err
		}
		r, err := bundle.Verify(ctx, files, bundle.Options{})
		if err != nil {
			return sample{}, err
		}
		if !r.Valid {
			return sample{}, fmt.Errorf("the bundle does not verify: %+v", r.Failed())
		}
		entries = int(r.Entries) //nolint:gosec // far fewer
		s := sample{ops: entries}
		return s, m.end(&s)
	})
	if err != nil {
		return nil, 0, err
	}
	b.table.add(row{
		what: fmt.Sprintf("%s, %d entries, %d MB", what, entries, info.Size()>>20), at: "–", samples: samples,
		floor: floor{name: "SHA-256 of the same bytes, one core", cost: perOp(hashed, entries)},
	})
	return files, entries, nil
}

// hashFile is the time that hashing takes, of a file that is in memory by then.
func hashFile(f *os.File, size int64) (time.Duration, error) {
	var took time.Duration
	for range 2 {
		h := sha256.New()
		started := time.Now()
		if _, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
			return 0, err
		}
		took = time.Since(started)
	}
	return took, nil
}

// fill asks for decisions until the log has that many entries.
func (b *bench) fill(ctx context.Context, server *child, w *world, entries int) error {
	bodies, err := w.decisionBodies(ctx, 1)
	if err != nil {
		return err
	}
	posters := newPosters(32, w.tls(w.service), false)
	defer closePosters(posters)
	size, err := w.logSize(ctx)
	if err != nil || size >= entries {
		return err
	}
	progress("adding %d entries for the bundle", entries-size)
	_, err = load(ctx, len(posters), entries-size, server, func(ctx context.Context, worker, _ int) error {
		status, answer, err := posters[worker].post(ctx, w.url+"/access/v1/evaluation", bodies[0], 0)
		if err == nil && status != 200 {
			err = unexpected(status, answer)
		}
		return err
	})
	return err
}

// logSize reads the checkpoint, whose second line it is.
func (w *world) logSize(ctx context.Context) (size int, err error) {
	note, err := w.operator.Checkpoint(ctx)
	if err != nil {
		return 0, err
	}
	var origin string
	if _, err := fmt.Sscanf(string(note), "%s\n%d\n", &origin, &size); err != nil {
		return 0, errors.Join(errors.New("the checkpoint is not readable"), err)
	}
	return size, nil
}

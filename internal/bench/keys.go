package main

import (
	"context"
	"path/filepath"
)

// elsewhere are appliances whose keys are not in SoftHSM, by the flag that makes them.
var elsewhere = []struct{ name, flag string }{
	{"Spawn, keys in the TPM that seals", "--tpm-keys"}, {"Spawn, tokens over a TPM of their own", "--tpm2-pkcs11"},
}

// keysRows are spawns with keys in software TPMs, which chips are slower than.
func (b *bench) keysRows(ctx context.Context) error {
	program, err := b.build(ctx)
	if err != nil {
		return err
	}
	for _, e := range elsewhere {
		dir := filepath.Join(b.tmp, e.flag[2:])
		server, err := startChild(ctx, dir+".log", program, "dev", "--dir", dir, "--listen", "127.0.0.1:0", e.flag)
		if err != nil {
			return err
		}
		if err := joined(b.keysRow(ctx, server, dir, e.name), server.stop()); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) keysRow(ctx context.Context, server *child, dir, name string) error {
	w, err := newWorld(ctx, server.url, dir)
	if err != nil {
		return err
	}
	for _, callers := range []int{1, 8} {
		if err := b.spawnRow(ctx, server, w, spawnKind{name: name}, callers, 400/b.scale); err != nil {
			return err
		}
	}
	return nil
}

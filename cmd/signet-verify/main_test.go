package main

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/signet-pki/signet/delegation/chain"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata/script")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"signet-verify": main})
}

// TestScripts runs the command as an auditor does, on the test vectors of audit/bundle.
func TestScripts(t *testing.T) {
	vectors, err := filepath.Abs("../../audit/bundle/testdata")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("V", vectors)
			return nil
		},
	})
}

// FuzzFiles: the files of cert are outside bytes too.
func FuzzFiles(f *testing.F) {
	f.Add([]byte(`{"fresh_at":"2026-03-01T09:00:00Z","revocations":[{"kind":"user","user":{"issuer":"a","subject":"b"}}]}`))
	f.Add([]byte(`{"delegations":["","x"],"keys":["AA=="],"grant":"e30"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		command := certCommand{Revocations: path, Delegations: path}
		var in chain.Input
		if command.revocations(&in) == nil && in.Revocation.FreshAt().IsZero() {
			t.Error("revocations of no known time were taken")
		}
		if err := command.delegations(&in); err == nil && slices.ContainsFunc(in.Keys, func(k []byte) bool { return k != nil && len(k) == 0 }) {
			t.Error("an empty key is not an absent one")
		}
	})
}

package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/signet-pki/signet/delegation/chain"
)

// svid asks the Workload API as an agent's library does.
func svid(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	socket := ts.MkAbs(args[0])
	for _, err := os.Stat(socket); err != nil; _, err = os.Stat(socket) {
		ts.Check(ctx.Err())
		time.Sleep(10 * time.Millisecond)
	}
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+socket)))
	ts.Check(err)
	defer source.Close()
	got, err := source.GetX509SVID()
	ts.Check(err)
	for len(args) > 1 && !holds(ts, args[1], got) {
		ts.Check(source.WaitUntilUpdated(ctx))
		got, err = source.GetX509SVID()
		ts.Check(err)
	}
	_, err = ts.Stdout().Write([]byte(got.ID.String() + "\n"))
	ts.Check(err)
}

func holds(ts *testscript.TestScript, file string, got *x509svid.SVID) bool {
	certs, err := chain.ParsePEM([]byte(ts.ReadFile(filepath.Clean(file))), chain.MaxChain)
	ts.Check(err)
	return certs[0].Equal(got.Certificates[0])
}

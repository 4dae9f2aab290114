package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/alecthomas/kong"
)

// Exit codes.
const (
	exitValid      = 0
	exitInvalid    = 1
	exitUnreadable = 2
)

// errInvalid ends the command with exitInvalid; the report was printed.
var errInvalid = errors.New("invalid")

// terminal is what the commands write to, and their clock.
type terminal struct {
	out, err io.Writer
	now      func() time.Time
}

type commands struct {
	Cert    certCommand    `cmd:"" help:"Verify a certificate and the delegation chain in it."`
	Receipt receiptCommand `cmd:"" help:"Verify the proof that one entry was recorded."`
	Bundle  bundleCommand  `cmd:"" help:"Verify an evidence bundle: a directory, or a tar archive."`

	Transcript transcriptCommand `cmd:"" help:"Verify the account of the ceremony by which a log began: pki/transcript.txt."`
}

// run is main without the process around it.
func run(ctx context.Context, args []string, t terminal) int {
	var c commands
	helped := false // --help printed; kong would exit here
	parser, err := kong.New(&c,
		kong.Name("signet-verify"),
		kong.Description("Checks offline what Signet issues and records. Exit status: 0 valid, 1 invalid, 2 unreadable or wrong usage."),
		kong.Writers(t.out, t.err),
		kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(t),
	)
	if err != nil {
		return t.fail(err)
	}
	parsed, err := parser.Parse(args)
	if helped {
		return exitValid
	}
	if err != nil {
		return t.fail(err)
	}
	switch err := parsed.Run(); {
	case errors.Is(err, errInvalid):
		return exitInvalid
	case err != nil:
		return t.fail(err)
	}
	return exitValid
}

func (t terminal) fail(err error) int {
	_, _ = fmt.Fprintf(t.err, "signet-verify: %v\n", err) // nobody is left to be told that this failed
	return exitUnreadable
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only: nothing is lost
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return data, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
)

type receiptCommand struct {
	Index    *uint64 `arg:"" optional:"" help:"The entry's index; without it, one of the flags says which."`
	Serial   string  `name:"serial" placeholder:"HEX" xor:"term" help:"All entries of this certificate."`
	Agent    string  `name:"agent" placeholder:"UUID" xor:"term" help:"Of this agent."`
	Task     string  `name:"task" placeholder:"UUID" xor:"term" help:"Of this task."`
	Decision string  `name:"decision" placeholder:"UUID" xor:"term" help:"Of this decision."`
	Sealed   bool    `name:"sealed" help:"Wait until the TPM has sealed it."`
	Out      string  `name:"out" required:"" placeholder:"FILE" help:"Write it there; where there may be several, into a new directory of that name."`
}

// term is what to look for; nil where the index is given.
func (q receiptCommand) term() (url.Values, error) {
	for _, p := range []struct{ name, value string }{
		{"serial", q.Serial},
		{"agent", q.Agent},
		{"task", q.Task},
		{"decision", q.Decision},
	} {
		switch {
		case p.value != "" && q.Index != nil:
			return nil, fmt.Errorf("--%s: or an index, not both", p.name)
		case p.value != "":
			return url.Values{p.name: {p.value}}, nil
		}
	}
	if q.Index == nil {
		return nil, errors.New("an index, --serial, --agent, --task or --decision is required")
	}
	return nil, nil //nolint:nilnil // the index says it
}

func (q receiptCommand) Run(ctx context.Context, s *session) error {
	term, err := q.term()
	if err != nil {
		return err
	}
	if term != nil {
		return q.saveAll(ctx, s, term)
	}
	return s.save(q.Out, func(c *client.Client, w io.Writer) error {
		receipt, err := c.Receipt(ctx, *q.Index, q.Sealed)
		if err != nil {
			return err
		}
		_, err = w.Write(receipt)
		return err
	})
}

// saveAll writes each receipt that is found to a file of its own. When it fails, those that were written stay: each is whole.
func (q receiptCommand) saveAll(ctx context.Context, s *session, term url.Values) error {
	if err := absent("--out", q.Out); err != nil {
		return err
	}
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	var files []string
	for more := true; more; more = term.Get("cursor") != "" {
		page, err := c.Receipts(ctx, term)
		if err != nil {
			return err
		}
		for _, r := range page.Receipts {
			path, err := q.saveOne(ctx, c, r)
			if err != nil {
				return err
			}
			files = append(files, path)
		}
		term.Set("cursor", page.NextCursor)
	}
	if files == nil {
		return errors.New("no entry of that which names the caller")
	}
	rows := make([]row, len(files))
	for i, path := range files {
		rows[i] = row{"written", path}
	}
	return s.print(struct {
		Files []string `json:"files"`
	}{files}, rows...)
}

// saveOne asks for a receipt by its index where the one that was found does not do.
func (q receiptCommand) saveOne(ctx context.Context, c *client.Client, r v1.FoundReceipt) (string, error) {
	text := []byte(r.Receipt)
	if q.Sealed || text == nil {
		var err error
		if text, err = c.Receipt(ctx, r.Index, q.Sealed || text == nil); err != nil {
			return "", err
		}
	}
	if err := os.Mkdir(q.Out, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("--out: %w", err)
	}
	path := filepath.Join(q.Out, strconv.FormatUint(r.Index, 10)+".json")
	return path, writeBytes(path, 0o600, text)
}

type proofCommand struct {
	Index uint64 `arg:"" help:"The entry's index."`
	Out   string `name:"out" required:"" placeholder:"FILE" help:"Write it there."`
}

func (q proofCommand) Run(ctx context.Context, s *session) error {
	if err := absent("--out", q.Out); err != nil {
		return err
	}
	c, err := s.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	proof, err := c.Proof(ctx, q.Index)
	if err != nil {
		return err
	}
	if err := writeBytes(q.Out, 0o600, proof); err != nil {
		return fmt.Errorf("%s: %w", q.Out, err)
	}
	return s.print(struct {
		File string `json:"file"`
	}{q.Out}, row{"written", q.Out})
}

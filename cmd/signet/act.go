package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/custody"
)

type actCommands struct {
	New        newActCommand     `cmd:"" help:"Write an act, which custodians then sign with ssh-keygen."`
	Submit     submitActCommand  `cmd:"" help:"Have an act carried out that enough custodians signed."`
	Custodians custodiansCommand `cmd:"" help:"Show who must agree, and how many of them."`
}

type newActCommand struct {
	Kind   string        `arg:"" help:"rotate_audit_key, change_custodians, …"`
	Detail string        `name:"detail" placeholder:"FILE" help:"The act's detail, a JSON object (default: an empty one)."`
	Life   time.Duration `name:"life" default:"168h" help:"How long there is to agree to it."`
	Out    string        `name:"out" short:"o" default:"act.json" help:"The file to write."`
}

// Help shows an example.
func (newActCommand) Help() string {
	return `Custodians read the file before they sign it:
  ssh-keygen -Y sign -n act@signet -f ~/.ssh/id_ed25519 act.json

Example:
  echo '{"label": "audit-2"}' > detail.json
  signet act new rotate_audit_key --detail detail.json`
}

func (q newActCommand) Run(ctx context.Context, s *session) error {
	detail := []byte("{}")
	if q.Detail != "" {
		var err error
		if detail, err = readFile(q.Detail, custody.MaxAct); err != nil {
			return err
		}
	}
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	who, err := c.Custodians(ctx)
	if err != nil {
		return err
	}
	head, err := c.Checkpoint(ctx)
	if err != nil {
		return err
	}
	origin, _, _ := strings.Cut(string(head), "\n")
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	now := s.now().UTC().Truncate(time.Second)
	text, err := custody.Act{
		Kind: custody.Kind(q.Kind), ID: hex.EncodeToString(id), Origin: origin, Custodians: who.ID, Created: now, NotAfter: now.Add(q.Life), Detail: json.RawMessage(detail),
	}.Marshal()
	if err != nil {
		return err
	}
	if err := writeBytes(q.Out, 0o644, text); err != nil {
		return err
	}
	return s.print(map[string]string{"act": q.Out}, row{"act", q.Out}, row{"sign", "ssh-keygen -Y sign -n " + custody.Namespace + " -f KEY " + q.Out})
}

type submitActCommand struct {
	File       string   `arg:"" help:"The act."`
	Signatures []string `arg:"" help:"What ssh-keygen -Y sign wrote, of each custodian (act.json.sig)."`
}

func (q submitActCommand) Run(ctx context.Context, s *session) error {
	text, err := readFile(q.File, custody.MaxAct)
	if err != nil {
		return err
	}
	request := v1.ActRequest{Act: text}
	for _, name := range q.Signatures {
		armored, err := readFile(name, custody.MaxSignature)
		if err != nil {
			return err
		}
		request.Signatures = append(request.Signatures, string(armored))
	}
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	done, err := c.SubmitAct(ctx, request)
	if err != nil {
		return err
	}
	rows := []row{{"done", done.Kind}, {"agreed", strings.Join(done.Agreed, ", ")}}
	if done.AuditReceipt != nil {
		rows = append(rows, receiptRow(done.AuditReceipt))
	}
	for _, key := range slices.Sorted(maps.Keys(done.Result)) {
		rows = append(rows, row{key, done.Result[key]})
	}
	return s.print(done, rows...)
}

type custodiansCommand struct{}

func (custodiansCommand) Run(ctx context.Context, s *session) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	who, err := c.Custodians(ctx)
	if err != nil {
		return err
	}
	set, err := custody.ParseSet(who.Set)
	if err != nil {
		return err
	}
	rows := []row{{"id", set.ID()}, {"threshold", fmt.Sprintf("%d of %d", set.Threshold(), len(set.Custodians()))}}
	for _, m := range set.Custodians() {
		rows = append(rows, row{m.Name, m.Fingerprint()})
	}
	return s.print(who, rows...)
}

package delegation_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// Envelopes is what erasures read.
func (l *memoryLog) Envelopes(_ context.Context, fn func(uint64, []byte) error) error {
	l.mu.Lock()
	entries := slices.Clone(l.entries)
	l.mu.Unlock()
	for i, e := range entries {
		if err := fn(uint64(i), e.Envelope); err != nil {
			return err
		}
	}
	return nil
}

// Erase takes the payloads away.
func (l *memoryLog) Erase(ctx context.Context, e record.Entry) (delegation.Position, error) {
	pos, err := l.Append(ctx, e)
	if err != nil {
		return pos, err
	}
	env, err := record.Check(e.Envelope)
	if err != nil {
		return pos, err
	}
	body, err := record.DecodeBody[record.RedactBody](env)
	if err != nil {
		return pos, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range body.Leaves() {
		l.entries[i].Payload, l.entries[i].Salt = nil, nil
	}
	return pos, body.Check(pos.Index)
}

var physician = chain.User{Issuer: "https://idp.example", Subject: "physician-1"}

func (r *rig) erase(q delegation.EraseRequest) (delegation.Erasure, error) {
	return r.s.Erase(r.t.Context(), r.operator, q)
}

// All that names a user or a grant of theirs goes, and a second time there is nothing left.
func TestEraseUser(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	a := r.spawn(orch, task)
	r.decide(r.service("records"), a)
	q := delegation.EraseRequest{User: &physician, Reason: "treatment over"}
	if _, err := r.erase(q); code(t, err) != "user_active" {
		t.Fatal(err)
	}
	r.revoke(chain.RevGrant, task.GrantID)
	dry := q
	dry.DryRun = true
	before, err := r.erase(dry)
	if err != nil || len(before.Redactions) != 0 || before.Entries < 4 { // grant, task, issue, decision, and refusals
		t.Fatalf("%+v %v", before, err)
	}
	done, err := r.erase(q)
	if err != nil || done.Entries != before.Entries || len(done.Redactions) != 1 {
		t.Fatalf("%+v %v", done, err)
	}
	for i, e := range r.log.entries {
		env := r.log.entry(t, uint64(i))
		if (env.User != "" || env.Grant == task.GrantID) && e.Payload != nil {
			t.Errorf("%s entry %d has its payload", env.Type, i)
		}
		if strings.Contains(string(e.Envelope), physician.Subject) {
			t.Errorf("envelope %d names the user", i)
		}
	}
	last := r.log.last(t)
	if last.Type != record.TypeRedact || last.User == "" || last.Operator == "" || !strings.Contains(string(last.Body), "treatment over") {
		t.Errorf("%+v", last)
	}
	if again, err := r.erase(q); err != nil || again.Entries != 0 || len(again.Redactions) != 0 {
		t.Errorf("%+v %v", again, err)
	}
}

// Listed entries go too, but none of a user whose agents may be at work.
func TestEraseEntries(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	r.spawn(orch, task)
	other := len(r.log.entries) - 1
	r.spawn(orch, task)
	index := uint64(len(r.log.entries) - 1)
	q := delegation.EraseRequest{Entries: []uint64{index}, Reason: "wrong patient"}
	if _, err := r.erase(q); code(t, err) != "user_active" {
		t.Fatal(err)
	}
	r.revoke(chain.RevUser, chain.UserID(physician.Issuer, physician.Subject))
	if done, err := r.erase(q); err != nil || done.Entries != 1 {
		t.Fatalf("%+v %v", done, err)
	}
	if r.log.entries[index].Payload != nil || r.log.entries[other].Payload == nil {
		t.Error("not that one")
	}
	if _, err := r.erase(q); code(t, err) != "no_such_entry" {
		t.Error(err)
	}
	q.Entries = []uint64{1 << 20}
	if _, err := r.erase(q); code(t, err) != "no_such_entry" {
		t.Error(err)
	}
}

func TestEraseRefuses(t *testing.T) {
	r := newRig(t)
	for want, q := range map[string]delegation.EraseRequest{
		"bad_reason":  {User: &physician},
		"bad_erasure": {Reason: "x"},
	} {
		if _, err := r.erase(q); code(t, err) != want {
			t.Errorf("%s: %v", want, err)
		}
	}
	for _, q := range []delegation.EraseRequest{
		{User: &physician, Entries: []uint64{1}, Reason: "x"},
		{Entries: []uint64{2, 1}, Reason: "x"},
		{Entries: make([]uint64, record.MaxRedacted+1), Reason: "x"},
	} {
		if _, err := r.erase(q); code(t, err) != "bad_erasure" {
			t.Error(err)
		}
	}
	if _, err := r.erase(delegation.EraseRequest{User: &physician, Reason: strings.Repeat("x", 257)}); code(t, err) != "bad_reason" {
		t.Error(err)
	}
	r.log.fail = errors.New("the disk is full")
	if _, err := r.erase(delegation.EraseRequest{Entries: []uint64{0}, Reason: "x"}); code(t, err) != "erasure_unfinished" {
		t.Error(err)
	}
}

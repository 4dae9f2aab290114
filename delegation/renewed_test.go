package delegation_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// revokedSerials are what followers of the feed and readers of the CRL are told, in order.
func (r *rig) revokedSerials() []string {
	out := []string{}
	for _, v := range r.list() {
		if v.Kind == chain.RevCertificate {
			out = append(out, v.ID)
		}
	}
	return out
}

func serialsOf(all ...identity) []string {
	out := make([]string, 0, len(all))
	for _, id := range all {
		out = append(out, chain.Serial(id.certs[0]))
	}
	return out
}

func (r *rig) renewed(name string, present identity) identity {
	r.t.Helper()
	next, err := r.renew(name, present, newKey(r.t))
	if err != nil {
		r.t.Fatal(err)
	}
	return next
}

// sameSerials compares without the order, which random serials decide among those renewed over one.
func sameSerials(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// A relying service and a stock peer know a certificate by its serial alone: each that was renewed over a revoked one is
// revoked by its own, and none beside or before it.
func TestRevocationNamesWhatWasRenewed(t *testing.T) {
	r := newRig(t)
	first := r.orchestrator("lab")
	second := r.renewed("lab", first)
	third, twin, aside := r.renewed("lab", second), r.renewed("lab", second), r.renewed("lab", first)
	fourth := r.renewed("lab", third)
	other := r.orchestrator("other")
	r.renewed("other", other)
	v, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevCertificate, ID: chain.Serial(second.certs[0]), Reason: "lost"})
	if err != nil || v.ID != chain.Serial(second.certs[0]) || v.Reason != "lost" {
		t.Fatalf("%+v, %v", v, err)
	}
	want := serialsOf(second, third, twin, fourth)
	got := r.revokedSerials()
	if !sameSerials(got, want) || got[0] != v.ID {
		t.Errorf("%v are revoked, want %v", got, want)
	}
	for _, v := range r.list()[1:] {
		if v.Reason != "renewed over "+chain.Serial(second.certs[0]) || !v.Expires.Equal(r.list()[0].Expires) {
			t.Errorf("%+v", v)
		}
	}
	if n := r.log.count(record.TypeRevoke); n != 4 {
		t.Errorf("%d entries", n)
	}
	r.auth(first)
	r.auth(aside)
	// Asked again, and after a start, nothing is left to do.
	r.restart()
	if err := r.s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.revoke(chain.RevCertificate, v.ID)
	if n := r.log.count(record.TypeRevoke); n != 4 || len(r.list()) != 4 {
		t.Errorf("%d entries, %d revocations", n, len(r.list()))
	}
}

// Services renew too, and their revocations reach followers as signed events.
func TestFollowersLearnOfRenewedCertificates(t *testing.T) {
	r := newRig(t)
	defer r.run()()
	first := r.service("records")
	key := newKey(t)
	out, err := r.s.Renew(t.Context(), first, "records", csr(t, key))
	if err != nil {
		t.Fatal(err)
	}
	second := r.identity(key, out.Chain)
	r.revoke(chain.RevCertificate, chain.Serial(first.Certs[0]))
	events := r.read(2)
	if len(events) != 2 || events[0].ID != chain.Serial(first.Certs[0]) || events[1].ID != chain.Serial(second.certs[0]) || events[1].Kind != chain.RevCertificate {
		t.Errorf("%+v", events)
	}
}

// A renewal that was admitted before its line was revoked: it is refused at the commit, or it is found and revoked.
func TestARenewalWhileItsLineIsRevoked(t *testing.T) {
	t.Run("commits after", func(t *testing.T) {
		r := newRig(t)
		first := r.orchestrator("lab")
		second := r.renewed("lab", first)
		r.hooked().meanwhile(t, func() { r.revoke(chain.RevCertificate, chain.Serial(first.certs[0])) })
		if _, err := r.renew("lab", second, newKey(t)); err == nil || code(t, err) != chain.CodeCertificateRevoked {
			t.Errorf("%v", err)
		}
		if got := r.revokedSerials(); !slices.Equal(got, serialsOf(first, second)) {
			t.Errorf("%v are revoked", got)
		}
	})
	t.Run("commits in between", func(t *testing.T) {
		r := newRig(t)
		first := r.orchestrator("lab")
		second := r.renewed("lab", first)
		h := r.hooked()
		admitted, revoking, renewed := make(chan struct{}), make(chan struct{}), make(chan identity, 1)
		revocations := 0
		h.beforeAppend = func(e record.Entry) {
			if typeOf(t, e) == record.TypeIssue {
				close(admitted)
				<-revoking
				return
			}
			// The second one's: the first is revoked, and who was renewed over it was looked for.
			if revocations++; revocations == 2 {
				close(revoking)
				renewed <- <-renewed
			}
		}
		go func() {
			third, err := r.renew("lab", second, newKey(t))
			if err != nil {
				t.Error(err)
			}
			renewed <- third
		}()
		<-admitted
		r.revoke(chain.RevCertificate, chain.Serial(first.certs[0]))
		if !isClosed(revoking) {
			t.Error("what was renewed was not revoked")
			close(revoking)
		}
		third := <-renewed
		if third.certs == nil {
			return
		}
		if got, want := r.revokedSerials(), serialsOf(first, second, third); !slices.Equal(got, want) {
			t.Errorf("%v are revoked, want %v", got, want)
		}
	})
}

// If the log fails on the way, the caller is told. Asking again does what is left, and so does the next start.
func TestARevokedLineIsRevokedWhole(t *testing.T) {
	for name, again := range map[string]func(r *rig, serial string) error{
		"asked again": func(r *rig, id string) error {
			_, err := r.s.Revoke(r.t.Context(), r.operator, serial(id))
			return err
		},
		"started again": func(r *rig, _ string) error {
			r.restart()
			return r.s.Recover(r.t.Context())
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			first := r.orchestrator("lab")
			second := r.renewed("lab", first)
			third := r.renewed("lab", second)
			h := r.hooked()
			h.afterAppend = func(record.Entry) error {
				h.fail = errors.New("the disk is full")
				return nil
			}
			id := chain.Serial(first.certs[0])
			if _, err := r.s.Revoke(t.Context(), r.operator, serial(id)); err == nil || code(t, err) != "audit_unavailable" {
				t.Fatalf("%v", err)
			}
			if got := r.revokedSerials(); !slices.Equal(got, []string{id}) {
				t.Fatalf("%v are revoked", got)
			}
			h.fail, h.afterAppend = nil, nil
			if err := again(r, id); err != nil {
				t.Fatal(err)
			}
			if got, want := r.revokedSerials(), serialsOf(first, second, third); !sameSerials(got, want) {
				t.Errorf("%v are revoked, want %v", got, want)
			}
		})
	}
}

// A certificate that is long over is not revoked; what was renewed over it and lives is.
func TestRenewedOverOneThatIsOver(t *testing.T) {
	r := newRig(t)
	first := r.orchestrator("lab")
	attested := r.clock
	r.clock = attested.Add(20 * time.Hour)
	second := r.renewed("lab", first)
	r.clock = attested.Add(43 * time.Hour)
	third := r.renewed("lab", second)
	if until := r.storedUntil("renewed/"); !until.Equal(attested.Add(delegation.DefaultLimits().AttestationAge + time.Hour)) {
		t.Errorf("a renewal is known until %s", until)
	}
	r.clock = second.certs[0].NotAfter.Add(time.Hour)
	r.revoke(chain.RevCertificate, chain.Serial(first.certs[0]))
	if got := r.revokedSerials(); !slices.Equal(got, serialsOf(first, third)) {
		t.Errorf("%v are revoked, want %v", got, serialsOf(first, third))
	}
}

// As many as can be revoked together are renewed, and no more.
func TestRenewalsAreBounded(t *testing.T) {
	const most = 1024
	r := newRig(t)
	first := r.orchestrator("lab")
	second := r.renewed("lab", first)
	prefix := "renewed/" + chain.Serial(first.certs[0]) + "/"
	value, _, err := r.log.Get(prefix + chain.Serial(second.certs[0]))
	if err != nil {
		t.Fatal(err)
	}
	for i := range most - 2 {
		r.log.apply([]record.Mutation{{Key: fmt.Sprintf("%s%032x", prefix, i+1), Value: value}})
	}
	r.renewed("lab", second)
	for _, over := range []identity{first, second} {
		if _, err := r.renew("lab", over, newKey(t)); err == nil || code(t, err) != "attestation_too_old" {
			t.Errorf("%v", err)
		}
	}
	r.revoke(chain.RevCertificate, chain.Serial(first.certs[0]))
	if n := len(r.list()); n != most+1 {
		t.Errorf("%d are revoked, want %d", n, most+1)
	}
}

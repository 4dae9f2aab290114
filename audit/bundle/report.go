package bundle

import (
	"fmt"
	"slices"
	"sync"
)

// CheckName names one kind of check. The names are part of the JSON report and stay stable.
type CheckName string

// The checks, in the order of a report. docs/formats/bundle.md says what each proves.
const (
	CheckManifest     CheckName = "manifest"     // each file's hash; nothing missing, nothing extra
	CheckLayout       CheckName = "layout"       // names, kinds and sizes of files
	CheckRange        CheckName = "range"        // the entries asked for are there
	CheckSelection    CheckName = "selection"    // what a selection asks for is here, and nothing else
	CheckTrust        CheckName = "trust"        // the bundle's anchors are those of the trust file
	CheckCheckpoint   CheckName = "checkpoint"   // signed by the audit key, over the recomputed root
	CheckWitness      CheckName = "witness"      // cosigned by the witnesses that a policy demands
	CheckTile         CheckName = "tile"         // hash tiles agree with the entries and with each other
	CheckEntry        CheckName = "entry"        // strict encoding, and a leaf of the tree
	CheckPrune        CheckName = "prune"        // what is not here was pruned, and by whom that is said
	CheckCeremony     CheckName = "ceremony"     // leaf 0 pins the keys
	CheckCustodians   CheckName = "custodians"   // enough of those in force agreed to each act, the ceremony first
	CheckRotation     CheckName = "rotation"     // each later audit key is vouched for by the one before it
	CheckPredecessor  CheckName = "predecessor"  // the log that this one succeeds ended where leaf 0 says
	CheckSuccessor    CheckName = "successor"    // this log had the end that its successor cites
	CheckPayload      CheckName = "payload"      // the payload is what the entry commits to
	CheckTime         CheckName = "time"         // entries lie between the seals around them, and seals come often enough
	CheckSeal         CheckName = "seal"         // the seal's text, and its checkpoint
	CheckSealChain    CheckName = "seal_chain"   // number, previous digest, counter
	CheckSealRoot     CheckName = "seal_root"    // the sealed root is the recomputed one
	CheckSealEntry    CheckName = "seal_entry"   // the entry that records the seal agrees with it
	CheckQuote        CheckName = "quote"        // TPM2_Quote over the seal
	CheckCounter      CheckName = "counter"      // TPM2_NV_Certify of the counter over the seal
	CheckBoot         CheckName = "boot"         // a restart of the TPM is recorded
	CheckAK           CheckName = "ak"           // the attestation key is restricted, bound and certified
	CheckCertificate  CheckName = "certificate"  // issued certificate, its entry and its path
	CheckDelegation   CheckName = "delegation"   // the chain in the certificate attenuates and is the one logged
	CheckConfirmation CheckName = "confirmation" // the delegator's JWS
	CheckRevocation   CheckName = "revocation"   // nothing was issued or allowed after what it rests on was revoked
	CheckAlarm        CheckName = "alarm"        // an alarm is of two redemptions, and nothing of its agent follows
	CheckEvidence     CheckName = "evidence"     // the file of the user's consent, and the grant in it
	CheckPolicy       CheckName = "policy"       // the policy bundle has its digest
	CheckReceipt      CheckName = "receipt"      // a receipt's own format and inclusion proof

	// The user's proof in the evidence, by type of consent.
	CheckConsentOIDC     CheckName = "consent_oidc_nonce"
	CheckConsentToken    CheckName = "consent_token_exchange"
	CheckConsentJWS      CheckName = "consent_jws"
	CheckConsentWebAuthn CheckName = "consent_webauthn"
)

func checkOrder() []CheckName {
	return []CheckName{
		CheckLayout, CheckManifest, CheckRange, CheckSelection, CheckTrust, CheckReceipt, CheckCheckpoint, CheckWitness, CheckTile, CheckEntry,
		CheckPrune, CheckCeremony, CheckCustodians, CheckRotation, CheckPredecessor, CheckSuccessor, CheckPayload, CheckTime, CheckSeal, CheckSealChain, CheckSealRoot,
		CheckSealEntry, CheckQuote, CheckCounter, CheckBoot,
		CheckAK, CheckCertificate, CheckDelegation, CheckConfirmation, CheckRevocation, CheckAlarm, CheckEvidence,
		CheckConsentWebAuthn, CheckConsentJWS, CheckConsentOIDC, CheckConsentToken, CheckPolicy,
	}
}

// Status is the result of a check. The zero value is no result.
type Status string

// What a check can end with. Unproven is a finding about completeness: nothing contradicts the record, but the bundle does not
// show that nothing is missing.
const (
	Pass         Status = "pass"
	Fail         Status = "fail"
	Unproven     Status = "unproven"
	NotEvaluated Status = "not_evaluated"
)

// Check is one line of a report. Index is the number of an entry, or of a seal where File is below seals/; nil where the check is
// about neither.
type Check struct {
	Name   CheckName `json:"name"`
	Status Status    `json:"status"`
	Index  *uint64   `json:"index,omitempty"`
	File   string    `json:"file,omitempty"`
	Detail string    `json:"detail,omitempty"`
}

// Where the anchors (keys, names, origin) came from.
const (
	SelfAsserted = "self-asserted" // out of the evidence itself: it proves consistency, not whose evidence it is
	Anchored     = "trust file"    // from the auditor
)

// Report is what verification found. Valid means that no check failed; it says nothing about completeness, which stands apart:
// Integrity is "pass" or "fail", Completeness "complete", "unproven" or "fail".
//
// Checks holds one summarising line for each check that ran, in a fixed order, followed by its findings. At most [MaxFindings] findings are
// kept; Omitted counts the others.
type Report struct {
	Valid        bool    `json:"valid"`
	Integrity    string  `json:"integrity"`
	Completeness string  `json:"completeness"`
	Anchors      string  `json:"anchors"`
	Origin       string  `json:"origin,omitempty"`
	Size         uint64  `json:"size"`             // of the sealed tree
	Entries      uint64  `json:"entries"`          // held and checked
	Seals        uint64  `json:"seals"`            // held and checked
	Hops         *Hops   `json:"hops,omitempty"`   // nil: no agent's certificate was checked
	Erased       uint64  `json:"erased,omitempty"` // payloads that are absent because a redact entry erased them
	Tells        *Tells  `json:"tells,omitempty"`  // of receipts
	Omitted      uint64  `json:"omitted_findings,omitempty"`
	Checks       []Check `json:"checks"`

	Witnesses Witnesses `json:"witnesses"`
	Selection *Selected `json:"selection,omitempty"` // nil: the bundle is not about one user, task or agent
}

// Hops counts the hops of the agents' certificates, each once: how many their delegator signed for, and for how many the
// CA alone vouches.
type Hops struct {
	Confirmed uint64 `json:"confirmed"`
	Vouched   uint64 `json:"vouched"`
}

// Failed lists what failed, without the summarising lines.
func (r Report) Failed() []Check { return r.with(Fail) }

// Unproven lists the findings about completeness.
func (r Report) Unproven() []Check { return r.with(Unproven) }

func (r Report) with(s Status) []Check {
	var out []Check
	for _, c := range r.Checks {
		if c.Status == s && (c.Index != nil || c.File != "" || c.Detail != "") {
			out = append(out, c)
		}
	}
	return out
}

// MaxFindings bounds the individual findings of a report.
const MaxFindings = 1000

const maxDetail = 500

// tally collects results from several goroutines.
type tally struct {
	mu       sync.Mutex
	passed   map[CheckName]uint64
	failed   map[CheckName]uint64
	unproven map[CheckName]uint64
	kept     []Check
	omitted  uint64
	erased   map[uint64]bool // entries; not changed while checks run
	gone     uint64          // payloads of those

	hops Hops
}

func newTally() *tally {
	return &tally{passed: map[CheckName]uint64{}, failed: map[CheckName]uint64{}, unproven: map[CheckName]uint64{}}
}

// place says what a finding is about.
type place struct {
	index *uint64
	file  string
}

func at(index uint64, file string) place { return place{index: &index, file: file} }

func in(file string) place { return place{file: file} }

func (t *tally) pass(name CheckName, n uint64) {
	if n == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.passed[name] += n
}

func (t *tally) fail(name CheckName, p place, format string, args ...any) {
	t.add(t.failed, Check{Name: name, Status: Fail, Index: p.index, File: p.file, Detail: fmt.Sprintf(format, args...)})
}

func (t *tally) unsure(name CheckName, p place, format string, args ...any) {
	if t.isErased(name, p) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if name == CheckPayload {
			t.gone++
		}
		return
	}
	t.add(t.unproven, Check{Name: name, Status: Unproven, Index: p.index, File: p.file, Detail: fmt.Sprintf(format, args...)})
}

// check records err as a failure, or else one pass.
func (t *tally) check(name CheckName, p place, err error) bool {
	if err != nil {
		t.fail(name, p, "%v", err)
		return false
	}
	t.pass(name, 1)
	return true
}

// hop counts one hop.
func (t *tally) hop(confirmed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if confirmed {
		t.hops.Confirmed++
	} else {
		t.hops.Vouched++
	}
}

func (t *tally) add(count map[CheckName]uint64, c Check) {
	c.File, c.Detail = clip(c.File), clip(c.Detail)
	t.mu.Lock()
	defer t.mu.Unlock()
	count[c.Name]++
	if len(t.kept) >= MaxFindings {
		t.omitted++
		return
	}
	t.kept = append(t.kept, c)
}

// clip keeps hostile names and values out of the auditor's terminal: printable characters only, and not too many of them.
func clip(s string) string {
	if len(s) > maxDetail {
		s = s[:maxDetail] + "…"
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			quoted := fmt.Sprintf("%q", s)
			return quoted[1 : len(quoted)-1]
		}
	}
	return s
}

// sections that a failure makes incomplete rather than untrue.
func aboutCompleteness(name CheckName) bool { return name == CheckRange }

func (t *tally) report(anchors string) Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := Report{Integrity: "pass", Completeness: "complete", Anchors: anchors, Omitted: t.omitted, Erased: t.gone}
	if hops := t.hops; hops != (Hops{}) {
		r.Hops = &hops
	}
	sortFindings(t.kept)
	for _, name := range checkOrder() {
		c := Check{Name: name, Status: t.status(name)}
		if c.Status == "" {
			continue
		}
		if c.Status == Unproven {
			r.Completeness = worse(r.Completeness, "unproven")
		}
		if c.Status == Fail && aboutCompleteness(name) {
			r.Completeness = "fail"
		} else if c.Status == Fail {
			r.Integrity = "fail"
		}
		r.Checks = append(r.Checks, c)
		for _, f := range t.kept {
			if f.Name == name {
				r.Checks = append(r.Checks, f)
			}
		}
	}
	for _, n := range t.unproven {
		if n > 0 {
			r.Completeness = worse(r.Completeness, "unproven")
		}
	}
	r.Valid = r.Integrity == "pass" && r.Completeness != "fail" && len(t.passed) > 0
	return r
}

func worse(have, next string) string {
	if have == "fail" {
		return have
	}
	return next
}

func (t *tally) status(name CheckName) Status {
	switch {
	case t.failed[name] > 0:
		return Fail
	case t.unproven[name] > 0:
		return Unproven
	case t.passed[name] > 0:
		return Pass
	default:
		return ""
	}
}

// sortFindings makes reports repeatable although workers run in parallel.
func sortFindings(list []Check) {
	key := func(c Check) uint64 {
		if c.Index == nil {
			return 0
		}
		return *c.Index
	}
	slices.SortStableFunc(list, func(a, b Check) int {
		switch {
		case key(a) != key(b):
			if key(a) < key(b) {
				return -1
			}
			return 1
		case a.File != b.File:
			if a.File < b.File {
				return -1
			}
			return 1
		case a.Detail < b.Detail:
			return -1
		case a.Detail > b.Detail:
			return 1
		}
		return 0
	})
}

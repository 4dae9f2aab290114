package appliance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/witness"
)

// alarmAgain is how long an alarm about a witness or a log is not raised a second time.
const alarmAgain = 24 * time.Hour

// lookBack is how many seals are searched at start for the newest cosigned one.
const lookBack = 256

// witnesses keeps the cosignatures of this log's seals. The zero value, without any witness, serves seals as they are.
type witnesses struct {
	log    *audit.Log
	keys   []witness.Key
	quorum int
	policy *witness.Policy // it judges whoever of the log's keys signed
	maxAge time.Duration
	askers []*asker

	keeping sync.Mutex
	newest  atomic.Pointer[cosignedSeal] // the newest whose quorum is reached
}

// cosignedSeal is a seal whose checkpoint carries its cosignatures.
type cosignedSeal struct {
	sealed checkpoint.Sealed
	at     time.Time
}

func (a *Appliance) newWitnesses(ctx context.Context, now func() time.Time) (w *witnesses, err error) {
	w = &witnesses{log: a.log, maxAge: a.cfg.Audit.MaxSealAge}
	cfg := a.cfg.Witnesses
	if cfg == nil {
		return w, nil
	}
	if w.keys, err = cfg.keys(); err != nil {
		return nil, err
	}
	w.quorum = cfg.Quorum
	vkey, err := a.log.Keys().VerifierKey(a.log.Keys().Newest())
	if err != nil {
		return nil, err
	}
	policy, err := witness.NewPolicy(vkey, w.keys, w.quorum)
	if err != nil {
		return nil, err
	}
	if w.policy, err = witness.ParsePolicy(policy); err != nil {
		return nil, err
	}
	raise := func(ctx context.Context, key witness.Key, c *conflict) error {
		return raiseAlarm(ctx, a.log, now(), key.String(), record.WitnessAlarmBody{
			Event: record.EventWitnessConflict, Witness: key.String(), Size: c.head.Size, Root: hex.EncodeToString(c.head.Root[:]), Other: c.other, Detail: c.detail,
		})
	}
	for i, s := range cfg.Servers {
		roots, err := a.cfg.roots(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("configuration: witnesses.servers[%d].ca_file: %w", i, err)
		}
		client := pullClient(roots)
		client.Timeout = askWithin
		w.askers = append(w.askers, &asker{
			key: w.keys[i], url: s.URL, client: client, proof: a.log.Consistency, keep: w.keep, raise: raise,
			log: a.logger.With(slog.String("part", "witnesses")),
		})
	}
	return w, w.load(ctx)
}

// logPolicy is what a bundle with this checkpoint says of the log's key and witnesses (C2SP tlog-policy).
func (w *witnesses) logPolicy(signed []byte) ([]byte, error) {
	vkey, _, err := w.log.Keys().Claimed(signed)
	if err != nil {
		return nil, err
	}
	return witness.NewPolicy(vkey, w.keys, w.quorum)
}

// roots are the certificates of a file, or nil, the system's.
func (c *Config) roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // the system's
	}
	text, err := os.ReadFile(c.path(file))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("no certificate in it")
	}
	return pool, nil
}

// load finds the newest seal whose quorum was reached before.
func (w *witnesses) load(ctx context.Context) error {
	last, _, ok := w.log.LastSeal()
	if !ok {
		return nil
	}
	for n := last.Number; n > 0 && n+lookBack > last.Number && w.newest.Load() == nil; n-- {
		lines, err := w.log.Cosignatures(n)
		if err != nil {
			return err
		}
		if lines == nil {
			continue
		}
		sealed, err := w.log.Seal(ctx, n)
		if err != nil {
			return err
		}
		if err := w.consider(sealed, lines); err != nil {
			return err
		}
	}
	return nil
}

// Run asks all witnesses, each by itself.
func (w *witnesses) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, a := range w.askers {
		g.Go(func() error { return a.Run(ctx, w.log.NextSeal, w.last(a.key)) })
	}
	return g.Wait()
}

// last is the number of the last seal if the witness has cosigned it, else 0.
func (w *witnesses) last(key witness.Key) uint64 {
	last, _, ok := w.log.LastSeal()
	if !ok {
		return 0
	}
	lines, err := w.log.Cosignatures(last.Number)
	if err != nil || !has(last, key, lines) {
		return 0
	}
	return last.Number
}

// has reports whether the lines have a cosignature by key over the seal's checkpoint.
func has(sealed checkpoint.Sealed, key witness.Key, lines []byte) bool {
	seal, err := checkpoint.ParseSeal(sealed.Text)
	if err != nil || len(lines) == 0 {
		return false
	}
	_, err = key.Pick(checkpoint.Checkpoint{Origin: seal.Origin, Size: seal.Size, Root: seal.Root}, lines)
	return err == nil
}

// keep adds a witness's line to those of a seal.
func (w *witnesses) keep(ctx context.Context, sealed checkpoint.Sealed, key witness.Key, line []byte) error {
	w.keeping.Lock()
	defer w.keeping.Unlock()
	lines, err := w.log.Cosignatures(sealed.Number)
	if err != nil || has(sealed, key, lines) {
		return err
	}
	lines = append(bytes.Clone(lines), line...)
	if err := w.log.KeepCosignatures(ctx, sealed.Number, lines); err != nil {
		return err
	}
	return w.consider(sealed, lines)
}

// consider makes a seal the newest cosigned one if its quorum is reached.
func (w *witnesses) consider(sealed checkpoint.Sealed, lines []byte) error {
	seal, err := checkpoint.ParseSeal(sealed.Text)
	if err != nil {
		return err
	}
	sealed.Checkpoint = append(bytes.Clone(sealed.Checkpoint), lines...)
	_, verifier, err := w.log.Keys().Claimed(sealed.Checkpoint)
	if err != nil {
		return err
	}
	verdict, err := w.policy.Judge(sealed.Checkpoint, verifier)
	if err != nil || !verdict.Satisfied {
		return err
	}
	if have := w.newest.Load(); have == nil || have.sealed.Number < sealed.Number {
		w.newest.Store(&cosignedSeal{sealed: sealed, at: seal.Time})
	}
	return nil
}

// cosigned is the newest seal whose quorum is reached, unless the last seal is so much newer that evidence must not wait for it.
func (w *witnesses) cosigned() (checkpoint.Sealed, bool) {
	newest := w.newest.Load()
	_, last, ok := w.log.LastSeal()
	if newest == nil || !ok || last.Sub(newest.at) > w.maxAge {
		return checkpoint.Sealed{}, false
	}
	return newest.sealed, true
}

// seal is the seal that evidence rests on: the newest cosigned one, or else the last as it is.
func (w *witnesses) seal() (checkpoint.Sealed, bool) {
	if sealed, ok := w.cosigned(); ok {
		return sealed, true
	}
	return w.plain()
}

// plain is the last seal, with whatever cosignatures it has.
func (w *witnesses) plain() (checkpoint.Sealed, bool) {
	last, _, ok := w.log.LastSeal()
	if !ok || w.policy == nil {
		return last, ok
	}
	if lines, err := w.log.Cosignatures(last.Number); err == nil {
		last.Checkpoint = append(bytes.Clone(last.Checkpoint), lines...)
	}
	return last, true
}

// check is the probe: no conflict, and a quorum that is not too old.
func (w *witnesses) check(context.Context) error {
	var troubles []string
	conflicts := false
	for _, a := range w.askers {
		if err := a.trouble.Load(); err != nil {
			var c *conflict
			conflicts = conflicts || errors.As(*err, &c)
			troubles = append(troubles, a.key.Name()+": "+plain(*err))
		}
	}
	_, ok := w.cosigned()
	if ok && !conflicts {
		return nil
	}
	reason := "no quorum of witnesses cosigned a recent seal"
	if conflicts {
		reason = "conflict"
	}
	return errors.New(strings.Join(append([]string{reason}, troubles...), "; "))
}

// raiseAlarm records it, once a day for what it is about.
func raiseAlarm(ctx context.Context, log *audit.Log, now time.Time, about string, body record.WitnessAlarmBody) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	e, err := record.New(record.Envelope{Type: record.TypeAlarm, Time: now, Code: body.Event, Body: text}, nil, [32]byte{})
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(body.Event + "\x00" + about))
	e.Mutations = []record.Mutation{{
		Key: "conflict/" + hex.EncodeToString(sum[:16]), Value: []byte{1}, Expires: now.Add(alarmAgain), Pre: record.Precondition{Op: record.Absent},
	}}
	_, err = log.Append(ctx, e)
	var raised *audit.PreconditionError
	if errors.As(err, &raised) {
		return nil
	}
	return err
}

package bundle

import (
	"errors"
	"fmt"
	"unique"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// alarmFact is an enrolment token in two hands.
type alarmFact struct {
	agent        string // UUID
	first, other hash   // the key that redeemed it, and the one that was refused
}

func alarmOf(env record.Envelope) (*alarmFact, error) {
	body, err := record.DecodeBody[record.AlarmBody](env)
	if err != nil {
		return nil, err
	}
	if body.Event != record.EventTokenReused {
		return nil, fmt.Errorf("an alarm of an unknown kind, %.40q", body.Event)
	}
	a := &alarmFact{agent: env.Agent}
	if a.first, err = parseHash(body.SPKIHash); err != nil {
		return nil, fmt.Errorf("spki_hash: %w", err)
	}
	if a.other, err = parseHash(body.RefusedSPKIHash); err != nil {
		return nil, fmt.Errorf("refused_spki_hash: %w", err)
	}
	return a, nil
}

// noteAlarm ends an agent, whoever of the two is the thief.
func (v *verifier) noteAlarm(f *fact) {
	v.tally.check(CheckAlarm, at(f.index, entriesPath(f.index/chunk)), v.twice(f.alarm))
	v.changes++
	agent := revocable{chain.RevAgent, unique.Make(f.alarm.agent)}
	if _, known := v.alarmed[agent]; !known {
		v.alarmed[agent] = f.index
	}
}

// twice checks that the log shows the first redemption of the two. Of the second there is only the key that was refused.
func (v *verifier) twice(a *alarmFact) error {
	holder, known := v.keys[a.first]
	id, err := chain.ParseID(holder.id)
	switch {
	case a.first == a.other:
		return errors.New("both redemptions are by one key, which is none")
	case !known && v.partial:
		return nil
	case !known:
		return errors.New("no earlier entry gives anybody the key that is said to have redeemed the token")
	case err != nil || id.AgentID() != a.agent:
		return fmt.Errorf("the key that is said to have redeemed the token is that of another, in entry %d", holder.index)
	case !holder.enrolled:
		return fmt.Errorf("the key that is said to have redeemed the token has its certificate without one, in entry %d", holder.index)
	}
	return nil
}

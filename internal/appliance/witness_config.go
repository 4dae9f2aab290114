package appliance

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/audit/witness"
)

const (
	maxWitnesses     = 16
	maxWitnessedLogs = 64
)

// Witnesses are servers of others that cosign this log's checkpoints (C2SP tlog-witness). Nothing waits for them.
type Witnesses struct {
	// Quorum is how many of the servers must have cosigned a checkpoint for it to be published as witnessed.
	Quorum int `yaml:"quorum"`
	// Servers are the witnesses, at most 16.
	Servers []WitnessServer `yaml:"servers"`
}

// WitnessServer is one witness.
type WitnessServer struct {
	// URL is the witness's submission prefix, https; /add-checkpoint follows it.
	URL string `yaml:"url"`
	// Key is its verifier key in text, name+hash+key, for Ed25519 cosignatures.
	Key string `yaml:"key"`
	// CAFile holds PEM certificates to trust for the URL, instead of the system's.
	CAFile string `yaml:"ca_file,omitempty"`
}

// Witness makes this appliance a witness of other logs: POST /add-checkpoint.
type Witness struct {
	// Name is the name of its key, a URL without a scheme such as signet.example.org/witness. It never changes.
	Name string `yaml:"name"`
	// Logs are the logs whose checkpoints it cosigns, at most 64.
	Logs []WitnessedLog `yaml:"logs"`
}

// WitnessedLog is a log of somebody else.
type WitnessedLog struct {
	// Key is the log's verifier key in text, name+hash+key; the name is its origin.
	Key string `yaml:"key"`
	// OtherKeys are further keys of the same log: those from before it rotated its audit key, or the next one.
	OtherKeys []string `yaml:"other_keys,omitempty"`
	// Start is where to begin, if not with the empty tree. It means nothing once a checkpoint was cosigned.
	Start *TreeHead `yaml:"start,omitempty"`
}

// TreeHead is a size with its root.
type TreeHead struct {
	// Size is the number of entries.
	Size uint64 `yaml:"size"`
	// Root is the tree's root, base64 as in a checkpoint.
	Root string `yaml:"root"`
}

func (w *Witnesses) check(p *problems) {
	if w == nil {
		return
	}
	p.unless(len(w.Servers) > 0 && len(w.Servers) <= maxWitnesses, "witnesses.servers", "1 to 16 are required")
	p.unless(w.Quorum >= 1 && w.Quorum <= len(w.Servers), "witnesses.quorum", "1 to the number of servers")
	names := map[string]bool{}
	for i, s := range w.Servers {
		field := fmt.Sprintf("witnesses.servers[%d]", i)
		u, err := url.Parse(s.URL)
		p.unless(err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && u.RawQuery == "" && !u.ForceQuery && u.Fragment == "",
			field+".url", "an https URL without user, query or fragment")
		key, err := witness.ParseKey(s.Key)
		if err != nil {
			p.unless(false, field+".key", err.Error())
			continue
		}
		// Names are the words of policy.txt, too.
		p.unless(!names[key.Name()] && key.Name() != "none" && !strings.HasPrefix(key.Name(), "#") && key.Name() != "witnesses", field+".key", "another witness has that name, or nobody may have it")
		names[key.Name()] = true
	}
}

// keys are the witnesses'.
func (w *Witnesses) keys() ([]witness.Key, error) {
	var out []witness.Key
	for _, s := range w.Servers {
		key, err := witness.ParseKey(s.Key)
		if err != nil {
			return nil, err
		}
		out = append(out, key)
	}
	return out, nil
}

func (w *Witness) check(p *problems, origin string) {
	if w == nil {
		return
	}
	p.unless(checkpoint.CheckOrigin(w.Name) == nil, "witness.name", "a URL without scheme, spaces and plus signs")
	p.unless(len(w.Logs) > 0 && len(w.Logs) <= maxWitnessedLogs, "witness.logs", "1 to 64 are required")
	names := map[string]bool{origin: true}
	for i, l := range w.Logs {
		field := fmt.Sprintf("witness.logs[%d]", i)
		log, err := witness.ParseLog(l.Key)
		if err != nil {
			p.unless(false, field+".key", err.Error())
			continue
		}
		p.unless(!names[log.Name()], field+".key", "this log itself, or one that is there already")
		names[log.Name()] = true
		_, err = l.log()
		p.unless(err == nil && len(l.OtherKeys) < rotation.MaxKeys, field+".other_keys", "other keys of the same log")
		_, err = l.Start.head(log)
		p.unless(err == nil, field+".start", "a size above 0 and a root of 32 bytes in base64")
	}
}

// log is the log by all of its keys.
func (l *WitnessedLog) log() (witness.Log, error) {
	log, err := witness.ParseLog(l.Key)
	for _, key := range l.OtherKeys {
		if err != nil {
			break
		}
		log, err = log.Also(key)
	}
	return log, err
}

// head is where to begin with a log of which nothing was cosigned.
func (h *TreeHead) head(l witness.Log) (checkpoint.Checkpoint, error) {
	c := l.Empty()
	if h == nil {
		return c, nil
	}
	root, err := base64.StdEncoding.Strict().DecodeString(h.Root)
	if err != nil || len(root) != merkle.HashSize || h.Size == 0 || h.Size > checkpoint.MaxSize {
		return c, fmt.Errorf("start of %s: size or root", l.Name())
	}
	c.Size, c.Root = h.Size, merkle.Hash(root)
	return c, nil
}

package event

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

// FuzzRead: claims that are accepted say one thing, in one way only.
func FuzzRead(f *testing.F) {
	at := time.Unix(1772366400, 0)
	for _, e := range []Event{
		{Epoch: 1, Seq: 1, Kind: chain.RevCertificate, ID: "1a2b", Time: at, Expires: at.Add(time.Hour)},
		{Epoch: 1, Seq: 2, Kind: chain.RevUser, ID: chain.UserID("https://idp.example", "p-1"), Time: at},
		{Epoch: 2, Seq: 7, Time: at},
	} {
		raw, err := json.Marshal(e.Claims("o", "d"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, err := read(payload, "o", "d")
		if err != nil {
			return
		}
		raw, err := json.Marshal(e.Claims("o", "d"))
		if err != nil {
			t.Fatal(err)
		}
		if again, err := read(raw, "o", "d"); err != nil || again != e {
			t.Errorf("%+v comes back as %+v, %v", e, again, err)
		}
	})
}

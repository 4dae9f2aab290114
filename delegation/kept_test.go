package delegation

import (
	"bytes"
	"encoding/asn1"
	"testing"
)

// A kept certificate comes back with its position, or alone as the ceremony's does; anything else is no certificate.
func TestKept(t *testing.T) {
	der, err := asn1.Marshal([]string{"a", "certificate"})
	if err != nil {
		t.Fatal(err)
	}
	k := kept{der: der, at: Position{Index: 1<<40 + 7, LeafHash: [32]byte{1, 31: 2}}}
	got, at, err := keptOf(k.value())
	if err != nil || !bytes.Equal(got, der) || at == nil || *at != k.at {
		t.Errorf("%x at %+v, %v", got, at, err)
	}
	got, at, err = keptOf(der)
	if err != nil || !bytes.Equal(got, der) || at != nil {
		t.Errorf("alone: %x at %+v, %v", got, at, err)
	}
	whole := k.value()
	for name, value := range map[string][]byte{
		"empty": nil, "cut": whole[:len(whole)-1], "longer": append(bytes.Clone(whole), 0), "no DER": whole[1:], "cut DER": der[:len(der)-1],
	} {
		if _, _, err := keptOf(value); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

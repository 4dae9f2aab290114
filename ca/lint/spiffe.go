package lint

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

const (
	maxSPIFFEID = 2048 // SPIFFE-ID §2.3
	maxHost     = 253  // RFC 1035 §2.3.4, in text
	maxLabel    = 63
	maxSegment  = 64 // design: agent types and names
)

// CheckTrustDomain accepts a trust domain that is also a usable URI name constraint (RFC 5280 §4.2.1.10): a host name
// in lower case, never an IP address. SPIFFE-ID §2.1 would allow underscores too; Go refuses them in constraints.
func CheckTrustDomain(td string) error {
	if err := CheckHost(td); err != nil {
		return err
	}
	if _, err := netip.ParseAddr(td); err == nil {
		return errors.New("is an IP address, which no URI constraint can match")
	}
	return nil
}

// CheckHost accepts a host name in lower case: labels of letters, digits and inner hyphens (RFC 1123 §2.1).
func CheckHost(host string) error {
	if host == "" || len(host) > maxHost {
		return fmt.Errorf("has %d bytes, want 1 to %d", len(host), maxHost)
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("%q is no host name", host)
		}
		if i := strings.IndexFunc(label, notHostRune); i >= 0 {
			return fmt.Errorf("%q is no host name in lower case", host)
		}
	}
	return nil
}

func notHostRune(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
}

// splitSPIFFE returns the path segments of an ID of the trust domain, compared byte by byte: no escapes, no case
// folding, no port, query or fragment can pass (SPIFFE-ID §2).
func splitSPIFFE(id, trustDomain string) ([]string, string) {
	if len(id) > maxSPIFFEID {
		return nil, "the SPIFFE ID is longer than 2048 bytes"
	}
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok {
		return nil, "the URI is no SPIFFE ID"
	}
	path, ok := strings.CutPrefix(rest, trustDomain+"/")
	if !ok {
		return nil, "the SPIFFE ID is not of this trust domain, or has no path"
	}
	segments := strings.Split(path, "/")
	for _, s := range segments {
		if !validSegment(s) {
			return nil, "the SPIFFE ID has a path segment outside [A-Za-z0-9._-]{1,64}, or a dot segment"
		}
	}
	return segments, ""
}

func validSegment(s string) bool {
	if s == "" || len(s) > maxSegment || s == "." || s == ".." {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-'
	}) < 0
}

// isUUIDv7 takes the canonical text only (RFC 9562 §4, §5.7).
func isUUIDv7(s string) bool {
	if len(s) != 36 || s[14] != '7' || !strings.ContainsRune("89ab", rune(s[19])) {
		return false
	}
	for i := range len(s) {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash {
			if s[i] != '-' {
				return false
			}
			continue
		}
		if (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return true
}

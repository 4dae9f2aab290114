package firmwarenotes

import "strings"

// Use is what the keys in a device are for. Several are joined with |.
type Use uint8

const (
	// Signing: CA, audit and JWT keys, which are all ECDSA or EdDSA.
	Signing Use = 1 << iota
	// Attesting: the TPM's attestation key, which signs seals (ECDSA).
	Attesting
	// Agreeing: Diffie-Hellman keys, with which sessions to a TPM are salted.
	Agreeing
	// RSA: RSA keys that the device generated. Signet makes none.
	RSA
)

// About is what a weakness is in.
type About uint8

const (
	// Firmware of the device: its version is the device's.
	Firmware About = iota
	// Library on the machine: the PKCS#11 module, or what an emulator is made of. Its version is the module's.
	Library
	// Platform: the machine around the device.
	Platform
)

// Advisory is one published weakness of one family of devices. A weakness that several have stands once for each.
type Advisory struct {
	// Family is one of the names in families.go.
	Family string
	// IDs are its CVE numbers, or what its finders call it; the one that people say first.
	IDs []string
	// About says whose version Versions are, and how loud a match is (see Judge).
	About About
	// Versions lists what is affected, as the device reports it. Empty: the source names no versions that the device
	// reports, so that every version matches and Advice says how to tell.
	Versions []Range
	// Numbered are the versions that the source's numbering is about: what lies outside is numbered in another way and
	// cannot be compared. Nil: all.
	Numbered *Range
	// Affects are the uses of keys that suffer. Zero: no key is lost by it.
	Affects Use
	// Physical: it takes the device in hand. The door is the answer to that, and the appliance goes on.
	Physical    bool
	Consequence string
	Advice      string
	// Source is who states the affected versions, and where.
	Source string
}

// Kind is how a device is spoken to.
type Kind uint8

const (
	// Token of a PKCS#11 module.
	Token Kind = iota
	// TPM 2.0.
	TPM
)

// Device is what a device says of itself. It is the device's word.
type Device struct {
	Kind Kind
	// Manufacturer is TPM_PT_MANUFACTURER ("IFX"), or a token's manufacturerID.
	Manufacturer string
	// Model is the TPM's vendor string, or a token's model.
	Model string
	// Firmware is dotted decimal: four numbers of 16 bits from a TPM, two of 8 from a token.
	Firmware string
	// Library is the PKCS#11 module: its maker, description and version, separated by spaces.
	Library string
}

// Verdict is what follows from a finding. The zero value refuses.
type Verdict uint8

const (
	// Refuse: keys that this appliance has in the device can be lost to whoever can ask for signatures.
	Refuse Verdict = iota
	// Warn: the firmware is weak, or nobody can tell.
	Warn
	// Note: for people who look, not for those who are woken.
	Note
)

func (v Verdict) String() string {
	switch v {
	case Refuse:
		return "refuse"
	case Warn:
		return "warn"
	case Note:
		return "note"
	default:
		return "unknown verdict"
	}
}

// Finding is an advisory that matches a device, or that the firmware is not known.
type Finding struct {
	Verdict Verdict
	// Name is the first of the advisory's IDs, or begins with "unknown firmware".
	Name string
	// Why, Fix and Page are for people: the consequence, what to do, the name of the page.
	Why, Fix, Page string
}

// unknownFirmware is the name of what cannot be compared.
const unknownFirmware = "unknown firmware"

// Judge lists what is known against a device that holds keys for these uses, in the order of the table. Nothing found
// is no proof of health.
//
// It refuses only where the version is certainly affected, the use is one that suffers, and no hands are needed. The
// attestation key alone is a warning: what was issued stays sound, and every quote shows auditors the firmware. What is
// in the firmware is otherwise a warning, and so are a version that cannot be compared and a device that nobody has
// written about; what is in a library or the platform is a note (docs/decisions/0034-firmware-notes.md).
func Judge(d Device, uses Use) []Finding {
	families := familiesOf(d)
	if !made(families) {
		return []Finding{unknown("there is no page about devices of this maker: " + describe(d))}
	}
	var found []Finding
	compared := parseVersion(d.Firmware) != nil
	for _, a := range Advisories() {
		f, ok := families[a.Family]
		if !ok {
			continue
		}
		if finding, ok := a.judge(f, d, uses); ok {
			found = append(found, finding)
			compared = compared || strings.HasPrefix(finding.Name, unknownFirmware)
		}
	}
	if !compared {
		found = append(found, unknown("the device reports no version that can be compared"))
	}
	return found
}

// made reports whether the maker of the device is known, and not just the module in front of it.
func made(families map[string]Family) bool {
	for _, f := range families {
		if len(f.Manufacturers) > 0 {
			return true
		}
	}
	return false
}

func unknown(why string) Finding {
	return Finding{Verdict: Warn, Name: unknownFirmware, Why: why, Fix: "read the maker's advisories", Page: readme}
}

func (a Advisory) judge(f Family, d Device, uses Use) (Finding, bool) {
	covered := a.covers(f.parse(a.version(d)))
	finding := Finding{Verdict: Warn, Name: a.IDs[0], Why: a.Consequence, Fix: a.Advice, Page: f.Page}
	switch {
	case covered == no:
		return Finding{}, false
	case covered == perhaps:
		finding.Name = unknownFirmware + ", perhaps " + a.IDs[0]
	case len(a.Versions) > 0 && a.Affects&uses&^Attesting != 0 && !a.Physical && a.About != Platform:
		finding.Verdict = Refuse
		return finding, true
	}
	if a.About != Firmware {
		finding.Verdict = Note
	}
	return finding, true
}

func (a Advisory) version(d Device) string {
	if a.About == Library {
		return lastWord(d.Library)
	}
	return d.Firmware
}

// covers says whether a version is among the affected ones.
func (a Advisory) covers(v version) answer {
	switch {
	case len(a.Versions) == 0:
		return yes
	case v == nil:
		return perhaps
	case a.Numbered != nil && a.Numbered.holds(v) != yes:
		return perhaps
	}
	sum := no
	for _, r := range a.Versions {
		if held := r.holds(v); held == yes {
			return yes
		} else if held == perhaps {
			sum = perhaps
		}
	}
	return sum
}

package firmwarenotes

import (
	"slices"
	"strings"
)

// Family is a kind of device that has a page.
type Family struct {
	Name string
	// Page is the name of its page, as [Page] takes it.
	Page string
	// Kinds are how it can be met: the keys of a TPM are also met as a token, through tpm2-pkcs11.
	Kinds []Kind
	// Manufacturers are first words of what the device reports, in capitals and without punctuation. Empty: any.
	Manufacturers []string
	// Model and Library begin what the device reports. Empty: any.
	Model, Library string
	scheme         scheme
}

func (f Family) parse(text string) version { return f.scheme.parse(text) }

// Families returns all kinds of device that have a page.
func Families() []Family {
	chip := []Kind{TPM, Token}
	token := []Kind{Token}
	return []Family{
		{Name: "infineon", Page: "tpm-infineon", Kinds: chip, Manufacturers: []string{"IFX"}},
		{Name: "nuvoton", Page: "tpm-nuvoton", Kinds: chip, Manufacturers: []string{"NTC"}},
		{Name: "st", Page: "tpm-st", Kinds: chip, Manufacturers: []string{"STM"}},
		{Name: "amd", Page: "tpm-amd", Kinds: chip, Manufacturers: []string{"AMD"}},
		{Name: "intel", Page: "tpm-intel", Kinds: chip, Manufacturers: []string{"INTC"}},
		{Name: "libtpms", Page: "swtpm", Kinds: chip, Manufacturers: []string{"IBM"}, Model: "SW"},
		{Name: "virtual", Page: "swtpm", Kinds: chip, Manufacturers: []string{"MSFT", "VMW", "GOOG", "AMZN"}},
		{Name: "tpm2-pkcs11", Page: "tpm2-pkcs11", Kinds: token, Library: "tpm2-software"},
		{Name: "softhsm", Page: "softhsm", Kinds: token, Manufacturers: []string{"SOFTHSM"}},
		{Name: "yubihsm", Page: "yubihsm2", Kinds: token, Manufacturers: []string{"YUBICO"}, Model: "YubiHSM", scheme: tens},
		{Name: "sc-hsm", Page: "nitrokey-hsm", Kinds: token, Manufacturers: []string{"WWW.CARDCONTACT.DE"}},
		{Name: "luna", Page: "luna", Kinds: token, Manufacturers: []string{"SAFENET", "GEMALTO", "THALES"}},
		{Name: "nshield", Page: "nshield", Kinds: token, Manufacturers: []string{"NCIPHER"}},
		{Name: "cloudhsm", Page: "cloudhsm", Kinds: token, Manufacturers: []string{"MARVELL"}, Model: "NITROX"},
		{Name: "utimaco", Page: "utimaco", Kinds: token, Manufacturers: []string{"UTIMACO"}},
	}
}

// familiesOf returns those that a device belongs to, by name: a TPM behind tpm2-pkcs11 is of two.
func familiesOf(d Device) map[string]Family {
	found := map[string]Family{}
	for _, f := range Families() {
		if f.has(d) {
			found[f.Name] = f
		}
	}
	return found
}

func (f Family) has(d Device) bool {
	return slices.Contains(f.Kinds, d.Kind) &&
		(len(f.Manufacturers) == 0 || slices.Contains(f.Manufacturers, vendorWord(d.Manufacturer))) &&
		strings.HasPrefix(d.Model, f.Model) && strings.HasPrefix(d.Library, f.Library)
}

// vendorWord drops the padding of both standards (NUL in a TPM's, spaces in a token's), and all that follows a maker's name.
func vendorWord(vendor string) string {
	words := strings.Fields(strings.ReplaceAll(vendor, "\x00", " "))
	if len(words) == 0 {
		return ""
	}
	return strings.ToUpper(strings.Trim(words[0], ",;:"))
}

func lastWord(s string) string {
	words := strings.Fields(s)
	if len(words) == 0 {
		return ""
	}
	return words[len(words)-1]
}

// describe quotes what a device says, bounded by the standards to 32 and 16 bytes.
func describe(d Device) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(d.Manufacturer+" "+d.Model, "\x00", " ")), " ")
}

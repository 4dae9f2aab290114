package firmwarenotes

import (
	"slices"
	"strings"
	"testing"
)

// The devices that the rows are tried with.
func tpmOf(maker, firmware string) Device {
	return Device{Kind: TPM, Manufacturer: maker + "\x00", Firmware: firmware}
}

func yubihsm(firmware, library string) Device {
	return Device{Manufacturer: "Yubico (www.yubico.com)", Model: "YubiHSM", Firmware: firmware, Library: "Yubico (www.yubico.com) YubiHSM PKCS#11 Library " + library}
}

func emulator() Device {
	return Device{Kind: TPM, Manufacturer: "IBM", Model: "SW   TPM", Firmware: "8215.4131.22.13878"}
}

func openSC(library string) Device {
	return Device{Manufacturer: "www.CardContact.de", Model: "PKCS#15 emulated", Firmware: "3.4", Library: "OpenSC Project OpenSC smartcard framework " + library}
}

// rows has for each row of the table a device that it is about, one that just has the fix, and one whose version tells
// nothing. A row without versions is about every device of its family, and has no fixed one.
func rows() map[string][3]Device {
	none := Device{}
	return map[string][3]Device{
		"st CVE-2019-16863":       {tpmOf("STM", "73.4.17568.5511"), tpmOf("STM", "73.20.17568.6684"), tpmOf("STM", "")},
		"intel CVE-2019-11090":    {tpmOf("INTC", "11.8.69.3425"), tpmOf("INTC", "11.8.70.3626"), tpmOf("INTC", "302.12.0.0")},
		"infineon CVE-2017-15361": {tpmOf("IFX", "7.61.2785.0"), tpmOf("IFX", "7.62.3126.0"), tpmOf("IFX", "seven")},
		"infineon CVE-2024-45678": {tpmOf("IFX", "7.85.4555.0"), none, none},
		"infineon CVE-2025-2884":  {tpmOf("IFX", "15.22.16832.0"), tpmOf("IFX", "15.23.17664.0"), tpmOf("IFX", "17.10.0.0")},
		"nuvoton CVE-2020-25082":  {tpmOf("NTC", "7.2.1.0"), tpmOf("NTC", "7.2.2.0"), tpmOf("NTC", "7.2")},
		"nuvoton CVE-2023-1017":   {tpmOf("NTC", "1.3.2.8"), tpmOf("NTC", "1.3.2.20"), tpmOf("NTC", "1.3")},
		"nuvoton CVE-2025-2884":   {tpmOf("NTC", "7.2.4.0"), tpmOf("NTC", "7.2.4.1"), tpmOf("NTC", "7")},
		"nuvoton CVE-2026-6923":   {tpmOf("NTC", "7.2.3.1"), tpmOf("NTC", "7.2.4.0"), tpmOf("NTC", "7.2")},
		"amd faulTPM":             {tpmOf("AMD", "3.87.0.5"), none, none},
		"amd CVE-2025-2884":       {tpmOf("AMD", "6.32.0.6"), none, none},
		"intel CVE-2025-2884":     {tpmOf("INTC", "600.18.42.0"), none, none},
		"infineon CVE-2018-6622":  {tpmOf("IFX", "7.85.4555.0"), none, none},
		"nuvoton CVE-2018-6622":   {tpmOf("NTC", "7.2.4.1"), none, none},
		"st CVE-2018-6622":        {tpmOf("STM", "73.64.17568.6684"), none, none},
		"amd CVE-2018-6622":       {tpmOf("AMD", "6.32.0.6"), none, none},
		"intel CVE-2018-6622":     {tpmOf("INTC", "600.18.42.0"), none, none},
		"libtpms CVE-2023-1017":   {emulator(), none, none},
		"libtpms CVE-2025-49133":  {emulator(), none, none},
		"libtpms CVE-2021-3623":   {emulator(), none, none},
		"yubihsm CVE-2024-45678":  {yubihsm("2.32", "2.70"), yubihsm("2.40", "2.70"), yubihsm("", "2.70")},
		"yubihsm CVE-2020-24388":  {yubihsm("2.40", "2.2"), yubihsm("2.40", "2.3"), yubihsm("2.40", "new")},
		"yubihsm CVE-2021-32489":  {yubihsm("2.40", "2.3"), yubihsm("2.40", "2.10"), yubihsm("2.40", "new")},
		"yubihsm CVE-2021-43399":  {yubihsm("2.40", "2.70"), none, none},
		"yubihsm CVE-2023-39908":  {yubihsm("2.40", "2.70"), none, none},
		"sc-hsm CVE-2023-40660":   {openSC("0.23"), openSC("0.24"), openSC("")},
		"luna CVE-2015-5464":      {Device{Manufacturer: "SafeNet, Inc.", Firmware: "6.21"}, none, none},
		"nshield CVE-2025-59695":  {Device{Manufacturer: "nCipher Corp. Ltd", Firmware: "13.4"}, none, none},
		"utimaco CVE-2018-19589":  {Device{Manufacturer: "Utimaco IS GmbH", Firmware: "5.1"}, none, none},
		"utimaco CVE-2020-26155":  {Device{Manufacturer: "Utimaco IS GmbH", Firmware: "5.1"}, none, none},
	}
}

func TestEachRow(t *testing.T) {
	cases := rows()
	for _, a := range Advisories() {
		row := a.Family + " " + a.IDs[0]
		tries, ok := cases[row]
		if !ok {
			t.Errorf("%s: no case", row)
			continue
		}
		delete(cases, row)
		if got := named(tries[0], a.IDs[0]); !slices.Contains(got, a.IDs[0]) {
			t.Errorf("%s: %+v is not affected: %q", row, tries[0], got)
		}
		if len(a.Versions) == 0 {
			continue
		}
		if got := named(tries[1], a.IDs[0]); len(got) > 0 {
			t.Errorf("%s: %+v has the fix and is affected: %q", row, tries[1], got)
		}
		if got := named(tries[2], a.IDs[0]); !slices.Contains(got, "unknown firmware, perhaps "+a.IDs[0]) {
			t.Errorf("%s: %+v tells nothing and is no unknown firmware: %q", row, tries[2], got)
		}
	}
	for row := range cases {
		t.Errorf("%s: a case without a row", row)
	}
}

// named lists what a device is told about one weakness.
func named(d Device, id string) []string {
	var names []string
	for _, f := range Judge(d, Signing) {
		if strings.HasSuffix(f.Name, id) {
			names = append(names, f.Name)
		}
	}
	return names
}

func TestVerdicts(t *testing.T) {
	behindTPM2PKCS11 := func(maker, firmware string) Device {
		return Device{Manufacturer: maker, Firmware: firmware, Library: "tpm2-software.github.io TPM2.0 Cryptoki 1.9"}
	}
	for _, tc := range []struct {
		name   string
		device Device
		uses   Use
		id     string
		want   Verdict
	}{
		{"timing, with CA keys in the TPM", tpmOf("STM", "73.8.0.0"), Signing | Attesting, "CVE-2019-16863", Refuse},
		{"timing, with the attestation key alone", tpmOf("STM", "73.8.0.0"), Attesting, "CVE-2019-16863", Warn},
		{"timing, with no key that suffers", tpmOf("STM", "73.8.0.0"), Agreeing, "CVE-2019-16863", Warn},
		{"timing, behind tpm2-pkcs11", behindTPM2PKCS11("STM", "73.8"), Signing, "CVE-2019-16863", Refuse},
		{"timing, behind tpm2-pkcs11, too few numbers", behindTPM2PKCS11("INTC", "11.8"), Signing, "CVE-2019-11090", Warn},
		{"another numbering", tpmOf("INTC", "403.1.0.0"), Signing | Attesting, "CVE-2019-11090", Warn},
		{"RSA only", tpmOf("IFX", "7.61.0.0"), Signing | Attesting, roca, Warn},
		{"RSA only, and RSA used", tpmOf("IFX", "7.61.0.0"), RSA, roca, Refuse},
		{"hands needed", yubihsm("2.32", "2.70"), Signing, eucleak, Warn},
		{"no versions stated", tpmOf("IFX", "7.85.0.0"), Signing, eucleak, Warn},
		{"no versions stated, and no hands needed", Device{Manufacturer: "SafeNet, Inc.", Firmware: "6.21"}, Signing, "CVE-2015-5464", Warn},
		{"nothing reported", tpmOf("STM", ""), Signing, "CVE-2019-16863", Warn},
		{"the machine around it", tpmOf("STM", "73.64.0.0"), Signing, sleep, Note},
		{"the module in front of it", yubihsm("2.40", "2.2"), Signing, "CVE-2020-24388", Note},
		{"an emulator", emulator(), Signing | Attesting, paramDec, Note},
		{"nobody has written about it", Device{Manufacturer: "ACME"}, 0, unknownFirmware, Warn},
		{"nor about the TPM behind the module", behindTPM2PKCS11("ACME", "1.0"), 0, unknownFirmware, Warn},
		{"no version, no ranges", tpmOf("AMD", ""), 0, unknownFirmware, Warn},
		{"not even a maker", Device{}, Signing, unknownFirmware, Warn},
		{"another one's emulator", Device{Manufacturer: "IBM", Model: "CEX"}, Signing, unknownFirmware, Warn},
	} {
		found := Judge(tc.device, tc.uses)
		i := slices.IndexFunc(found, func(f Finding) bool { return strings.HasSuffix(f.Name, tc.id) })
		if i < 0 || found[i].Verdict != tc.want {
			t.Errorf("%s: %+v, want %v for %s", tc.name, found, tc.want, tc.id)
		}
	}
	for _, d := range []Device{
		{Manufacturer: "SoftHSM project", Model: "SoftHSM v2", Firmware: "2.6", Library: "SoftHSM Implementation of PKCS11 2.6"},
		{Manufacturer: "Marvell Semiconductors, Inc.", Model: "NITROX-III CNN35XX-NFBE", Firmware: "2.6"},
	} {
		if found := Judge(d, Signing); len(found) > 0 {
			t.Errorf("%s: %+v", d.Manufacturer, found)
		}
	}
}

func TestTheZeroVerdictRefuses(t *testing.T) {
	var v Verdict
	if v != Refuse || v.String() != "refuse" {
		t.Error("a verdict that was forgotten lets the appliance go on")
	}
}

func TestTableIsWhole(t *testing.T) {
	families := map[string]bool{}
	for _, f := range Families() {
		families[f.Name] = true
		for _, m := range f.Manufacturers {
			if m != vendorWord(m) {
				t.Errorf("family %s: no device is ever said to be of %q", f.Name, m)
			}
		}
	}
	seen := map[string]bool{}
	for _, a := range Advisories() {
		row := a.Family + " " + a.IDs[0]
		if !families[a.Family] || a.Consequence == "" || a.Advice == "" || a.Source == "" || seen[row] {
			t.Errorf("%s: incomplete, or there twice: %+v", row, a)
		}
		seen[row] = true
		for _, r := range a.Versions {
			from, below := parseVersion(r.From), parseVersion(r.Below)
			if from == nil || below == nil || compare(from, 0, below) >= 0 {
				t.Errorf("%s: range %v is not one", row, r)
			}
		}
		if a.Physical && a.Affects == 0 {
			t.Errorf("%s: hands are needed for nothing", row)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, tc := range []struct {
		text string
		r    Range
		want answer
	}{
		{"4.33.12", Range{"4.0", "4.34"}, yes},
		{"4.34", Range{"4.0", "4.34"}, no},
		{"4.34.0.1", Range{"4.0", "4.34"}, no},
		{"4", Range{"4.0", "4.34"}, perhaps},
		{"5", Range{"4.0", "4.34"}, no},
		{"3", Range{"4.0", "4.34"}, no},
		{"4", Range{"4.0", "5"}, yes},
		{"11.8", Range{"11.0", "11.8.70"}, perhaps},
		{"11.7", Range{"11.0", "11.8.70"}, yes},
		{"11.9", Range{"11.0", "11.8.70"}, no},
		{"11", Range{"11.8", "12"}, perhaps},
		{"", Range{"0", "1"}, perhaps},
		{"1..2", Range{"0", "9"}, perhaps},
		{"-1", Range{"0", "9"}, perhaps},
		{"4294967296", Range{"0", "9"}, perhaps},
		{"1.1.1.1.1.1.1.1.1", Range{"0", "9"}, perhaps},
	} {
		if got := tc.r.holds(parseVersion(tc.text)); got != tc.want {
			t.Errorf("%q in %v: %d, want %d", tc.text, tc.r, got, tc.want)
		}
	}
	for text, want := range map[string]version{"2.32": {2, 3, 2}, "2.4": {2, 0, 4}, "2.40": {2, 4, 0}, "2.3.2": {2, 3, 2}, "2": {2}} {
		if got := tens.parse(text); !slices.Equal(got, want) {
			t.Errorf("tens: %q is %v, want %v", text, got, want)
		}
	}
}

// FuzzJudge: a device may say anything of itself.
func FuzzJudge(f *testing.F) {
	for _, tries := range rows() {
		for _, d := range tries {
			f.Add(uint8(d.Kind), d.Manufacturer, d.Model, d.Firmware, d.Library)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, manufacturer, model, firmware, library string) {
		d := Device{Kind: Kind(kind), Manufacturer: manufacturer, Model: model, Firmware: firmware, Library: library}
		for _, found := range Judge(d, Signing|Attesting) {
			if found.Name == "" || found.Why == "" || found.Fix == "" || found.Verdict > Note {
				t.Errorf("%+v says nothing: %+v", d, found)
			}
			if strings.HasPrefix(found.Name, unknownFirmware) && found.Verdict == Refuse {
				t.Errorf("%+v is refused for what nobody knows", d)
			}
			if _, err := pages.ReadFile(found.Page + ".md"); err != nil {
				t.Errorf("%s: %v", found.Name, err)
			}
		}
	})
}

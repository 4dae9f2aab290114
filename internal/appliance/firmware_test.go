package appliance

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	firmwarenotes "github.com/signet-pki/signet/firmware-notes"
	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/tpm"
)

// st is an ST33 whose ECDSA keys can be timed out of it (CVE-2019-16863); fixed is one with the update.
func st() tpm.Info {
	return tpm.Info{Manufacturer: "STM", Firmware: 73<<48 | 8<<32 | 17568<<16 | 5511}
}

func fixed() tpm.Info { return tpm.Info{Manufacturer: "STM", Firmware: 73<<48 | 64<<32} }

func softHSM() hsm.Info {
	return hsm.Info{Manufacturer: "SoftHSM project", Model: "SoftHSM v2", Firmware: "2.6", Library: "SoftHSM Implementation of PKCS11 2.6"}
}

func swtpmInfo() tpm.Info {
	return tpm.Info{Manufacturer: "IBM", Vendor: "SW   TPM", Firmware: 0x2019102300163636}
}

// inTPM is the token that tpm2-pkcs11 makes of a TPM.
func inTPM(info tpm.Info) hsm.Info {
	return hsm.Info{Manufacturer: info.Manufacturer, Firmware: "73.8", Library: "tpm2-software.github.io TPM2.0 Cryptoki 1.9"}
}

func TestJudged(t *testing.T) {
	yubihsm := hsm.Info{Manufacturer: "Yubico (www.yubico.com)", Model: "YubiHSM", Firmware: "2.32", Library: "Yubico (www.yubico.com) YubiHSM 2.70"}
	for _, tc := range []struct {
		name         string
		devices      []described
		refuse, warn string // what the reasons begin with; "" is none
	}{
		{"development", []described{describedToken("token issuing", softHSM()), describedTPM(swtpmInfo())}, "", ""},
		{"attestation key in a timed TPM", []described{describedTPM(st())}, "", "tpm: CVE-2019-16863 (firmware-notes/tpm-st.md)"},
		{"with the update", []described{describedTPM(fixed())}, "", ""},
		{"CA keys in a timed TPM", []described{describedToken("token issuing", inTPM(st()))}, "token issuing: CVE-2019-16863 (firmware-notes/tpm-st.md)", ""},
		{"hands needed", []described{describedToken("token audit", yubihsm)}, "", "token audit: CVE-2024-45678 (firmware-notes/yubihsm2.md)"},
		{"unknown maker", []described{describedToken("token audit", hsm.Info{Manufacturer: "ACME"})}, "", "token audit: unknown firmware (firmware-notes/README.md)"},
		{"several", []described{describedTPM(st()), describedToken("token audit", yubihsm)}, "", "tpm: CVE-2019-16863 (firmware-notes/tpm-st.md); token audit: "},
	} {
		for v, want := range map[firmwarenotes.Verdict]string{firmwarenotes.Refuse: tc.refuse, firmwarenotes.Warn: tc.warn} {
			err := judged(tc.devices, v)
			if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%s, %v: %v, want %q", tc.name, v, err, want)
			}
		}
	}
}

func TestDoctorTellsAdvisories(t *testing.T) {
	for _, tc := range []struct {
		name   string
		device described
		status Status
	}{
		{"refused", describedToken("token issuing", inTPM(st())), Fail},
		{"warned", describedTPM(st()), Warn},
		{"noted", describedTPM(swtpmInfo()), Note},
	} {
		f := tc.device.advisories()
		if len(f) == 0 || f[0].Status != tc.status || f[0].ID != idFirmware || f[0].Subject != tc.device.what {
			t.Fatalf("%s: %+v", tc.name, f)
		}
		if !strings.HasPrefix(f[0].What, "CVE-") || f[0].Why == "" || !strings.Contains(f[0].Fix, "See firmware-notes/") {
			t.Errorf("%s: %+v", tc.name, f[0])
		}
	}
	if f := describedToken("token audit", softHSM()).advisories(); len(f) > 0 {
		t.Errorf("SoftHSM: %+v", f)
	}
}

// TestFirmwareIsAskedNowAndThen: a device that goes away is what it was, one that comes back with another firmware is noticed, and
// one that never answered stops the appliance.
func TestFirmwareIsAskedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, gone := 0, errors.New("gone")
		var answer []described
		f := &firmware{ask: func(context.Context) ([]described, error) {
			asked++
			if answer == nil {
				return nil, gone
			}
			return answer, nil
		}}
		refused := f.check(firmwarenotes.Refuse)
		if err := refused(t.Context()); !errors.Is(err, gone) {
			t.Fatalf("nobody answered: %v", err)
		}
		answer = []described{describedTPM(fixed())}
		for range 3 {
			if err := refused(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if asked != 2 {
			t.Errorf("asked %d times, want 2", asked)
		}
		answer = nil
		time.Sleep(firmwareEvery)
		if err := refused(t.Context()); err != nil {
			t.Errorf("gone after it was known: %v", err)
		}
		answer = []described{describedToken("token issuing", inTPM(st()))}
		time.Sleep(firmwareEvery)
		if err := refused(t.Context()); err == nil {
			t.Error("another firmware went unnoticed")
		}
	})
}

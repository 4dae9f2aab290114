package firmwarenotes

// Advisories returns the whole table. Only what its source states stands here; absence proves nothing.
func Advisories() []Advisory {
	return []Advisory{
		{
			Vendor: "IFX",
			Firmware: []Range{
				{"4.0", "4.33"},
				{"4.40", "4.42"},
				{"5.0", "5.61"},
				{"6.0", "6.42"},
				{"7.0", "7.61"},
				{"133.0", "133.32"},
			},
			ID:          "CVE-2017-15361",
			Consequence: "ROCA: RSA keys generated inside the TPM can be factored from their public half. ECC keys are not affected.",
			Advice:      "Update the firmware, then replace every RSA key that the TPM generated before. Signet's own keys are ECC.",
			Source:      "Microsoft security advisory ADV170012",
		},
		{
			Vendor:      "IFX",
			ID:          "CVE-2024-45678",
			Consequence: "EUCLEAK: with physical access and electromagnetic measurement, an ECDSA key can be extracted.",
			Advice:      "The researchers count TPMs with Infineon's library among the affected parts without naming firmware versions: ask the vendor, and keep the machine physically guarded.",
			Source:      "NinjaLab, EUCLEAK, 2024",
		},
		{
			Vendor: "STM",
			Firmware: []Range{
				{"71.0", "71.0"},
				{"71.4", "71.4"},
				{"71.12", "71.12"},
				{"73.0", "73.0"},
				{"73.4", "73.5"},
				{"73.8", "73.9"},
				{"74.0", "74.0"},
				{"74.4", "74.5"},
				{"74.8", "74.9"},
				{"74.16", "74.16"},
			},
			ID:          "CVE-2019-16863",
			Consequence: "TPM-FAIL: ECDSA keys can be recovered from the time that signatures take. The attestation key is one.",
			Advice:      "Update the firmware, then make a new attestation key.",
			Source:      "STMicroelectronics, TPM firmware update: ECDSA signature generation",
		},
		{
			Vendor: "INTC",
			Firmware: []Range{
				{"11.0", "11.8.69"},
				{"11.10", "11.11.69"},
				{"11.20", "11.22.69"},
				{"12.0", "12.0.44"},
				{"14.0", "14.0.9"},
			},
			ID:          "CVE-2019-11090",
			Consequence: "TPM-FAIL: ECDSA keys can be recovered from the time that signatures take. The attestation key is one.",
			Advice:      "Update the platform's firmware (CSME), then make a new attestation key.",
			Source:      "Intel security advisory INTEL-SA-00241",
		},
		{
			Vendor:      "NTC",
			Firmware:    []Range{{"1.3.0.1", "1.3.0.1"}, {"1.3.1.0", "1.3.1.0"}, {"1.3.2.8", "1.3.2.8"}},
			ID:          "CVE-2023-1017",
			Consequence: "A crafted command stops an NPCT65x TPM until a power cycle; sealing stops with it.",
			Advice:      "Update to 1.3.2.20, or allow only signetd to open the device.",
			Source:      "Nuvoton security advisory SA-003",
		},
		{
			Vendor:      "IBM",
			ID:          "CVE-2023-1017, CVE-2023-1018",
			Consequence: "Reference code: a crafted command reads or writes beyond a buffer of the emulator.",
			Advice:      "The emulator does not report its library's version: libtpms has to be 0.9.6 or newer, or carry the distribution's fix. An emulator protects nothing in production.",
			Source:      "CERT/CC VU#782720; libtpms 0.9.6 release notes",
		},
		{
			Vendor:      "YUBICO",
			Firmware:    []Range{{"2.0", "2.3"}},
			ID:          "CVE-2024-45678",
			Consequence: "EUCLEAK: with physical access and electromagnetic measurement, an ECDSA key can be extracted from a YubiHSM 2.",
			Advice:      "The firmware cannot be updated in place: replace the device by one with 2.4.0 or newer and its ECDSA keys, or keep it physically guarded.",
			Source:      "Yubico security advisory YSA-2024-03",
		},
	}
}

package firmwarenotes

import "slices"

// Advisories returns the whole table. Only what its sources state stands here; absence proves nothing.
func Advisories() []Advisory {
	return slices.Concat(timing(), infineon(), nuvoton(), platforms(), emulators(), tokens())
}

const (
	roca     = "CVE-2017-15361"
	sleep    = "CVE-2018-6622"
	eucleak  = "CVE-2024-45678"
	hmacSign = "CVE-2025-2884"
	paramDec = "CVE-2023-1017"

	hmacSignSays = "Reference code: a crafted command reads beyond a buffer and can stop the TPM or disclose its memory. It takes access to the device file."
)

// timing are those by which keys are lost to whoever can have signatures made and time them.
func timing() []Advisory {
	return []Advisory{
		{
			Family: "st", IDs: []string{"CVE-2019-16863"},
			Versions: []Range{
				{"71.0", "71.1"},
				{"71.4", "71.5"},
				{"71.12", "71.13"},
				{"73.0", "73.1"},
				{"73.4", "73.6"},
				{"73.8", "73.10"},
				{"74.0", "74.1"},
				{"74.4", "74.6"},
				{"74.8", "74.10"},
				{"74.16", "74.17"},
			},
			Affects:     Signing | Attesting,
			Consequence: "TPM-FAIL: ECDSA keys can be recovered from the time that signatures take. The attestation key is one.",
			Advice:      "Update the TPM's firmware (71.16; 73.20, 73.21, 73.64 or 73.65; 74.20, 74.21, 74.64 or 74.65, whichever the machine's maker has), then make new ECDSA keys in it: a ceremony.",
			Source:      "STMicroelectronics, TPM firmware update: ECDSA signature generation, https://www.st.com/content/st_com/en/campaigns/tpm-update.html",
		},
		{
			Family: "intel", IDs: []string{"CVE-2019-11090"},
			Versions: []Range{
				{"11.0", "11.8.70"},
				{"11.10", "11.11.70"},
				{"11.20", "11.22.70"},
				{"12.0", "12.0.45"},
				{"14.0", "14.0.10"},
			},
			// The source speaks of CSME. TXE (3, 4) and SPS (4) have other lists under the same numbers, and later PTTs report
			// numbers of their own, such as 302.12.
			Numbered:    &Range{"11.0", "15.0"},
			Affects:     Signing | Attesting,
			Consequence: "TPM-FAIL: ECDSA keys can be recovered from the time that signatures take. The attestation key is one.",
			Advice:      "Update the platform's firmware (CSME 11.8.70, 11.11.70, 11.22.70, 12.0.45, 14.0.10; TXE 3.1.70, 4.0.20), then make new ECDSA keys in the TPM: a ceremony. If the TPM reports another kind of number, compare /sys/class/mei/mei0/fw_ver.",
			Source:      "Intel, INTEL-SA-00241; CVE record CVE-2019-11090 (CNA: Intel); beginnings of the ranges: NVD",
		},
	}
}

func infineon() []Advisory {
	return []Advisory{
		{
			Family: "infineon", IDs: []string{roca},
			Versions: []Range{
				{"4.0", "4.34"},
				{"4.40", "4.43"},
				{"5.0", "5.62"},
				{"6.0", "6.43"},
				{"7.0", "7.62"},
				{"133.0", "133.33"},
			},
			Affects:     RSA,
			Consequence: "ROCA: RSA keys generated inside the TPM can be factored from their public half. ECC keys are not affected.",
			Advice:      "Update the TPM's firmware, then replace every RSA key that it generated before, its RSA endorsement key included. Signet's own keys are ECC.",
			Source:      "Microsoft, ADV170012; CVE record CVE-2017-15361",
		},
		{
			Family: "infineon", IDs: []string{eucleak},
			Affects: Signing | Attesting, Physical: true,
			Consequence: "EUCLEAK: with the chip in hand and electromagnetic measurement, an ECDSA key can be extracted.",
			Advice:      "The researchers name every version of the maker's library that they know of, and no firmware of TPMs: ask the maker, and keep the machine under lock.",
			Source:      "NinjaLab, EUCLEAK, 2024, https://ninjalab.io/eucleak/; CVE record CVE-2024-45678",
		},
		{
			Family: "infineon", IDs: []string{hmacSign},
			Versions:    []Range{{"7.0", "7.66"}, {"7.80", "7.86"}, {"15.0", "15.23"}},
			Numbered:    &Range{"7.0", "16.0"},
			Consequence: hmacSignSays,
			Advice:      "Update to 7.66 or 7.86 (SLB 9670) or 15.23 (SLB 9672), as the machine's maker offers it; only signetd's user should open the device. Of other lines the version was not found.",
			Source:      "TCG, VRT0009; CERT/CC VU#282450; versions: IEI, TPM IN03 notice (SLB 9672), and a published comparison of update files (SLB 9670). Infineon's own list was not read.",
		},
	}
}

func nuvoton() []Advisory {
	return []Advisory{
		{
			Family: "nuvoton", IDs: []string{"CVE-2020-25082"},
			Versions: []Range{{"7.2", "7.2.2.0"}},
			Affects:  Signing | Attesting, Physical: true,
			Consequence: "With the chip in hand, ECC keys can be recovered from the time that signatures take.",
			Advice:      "Update NPCT75x to 7.2.2.0 or newer, then make new ECDSA keys in it; keep the machine under lock.",
			Source:      "Nuvoton, SA-002, https://www.nuvoton.com/support/security/security-advisories/sa-002/; CVE record CVE-2020-25082",
		},
		{
			Family: "nuvoton", IDs: []string{paramDec},
			Versions:    []Range{{"1.3.0.1", "1.3.0.2"}, {"1.3.1.0", "1.3.1.1"}, {"1.3.2.8", "1.3.2.9"}},
			Consequence: "A crafted command stops an NPCT65x until a power cycle; sealing stops with it.",
			Advice:      "Update to 1.3.2.20, which carries no certification, or let only signetd's user open the device.",
			Source:      "Nuvoton, SA-003, https://www.nuvoton.com/support/security/security-advisories/sa-003/",
		},
		{
			Family: "nuvoton", IDs: []string{hmacSign},
			Versions:    []Range{{"7.2", "7.2.4.1"}},
			Consequence: hmacSignSays,
			Advice:      "Update NPCT7xx to 7.2.4.1 or newer; until then let only signetd's user open the device. A power cycle brings a stopped one back.",
			Source:      "TCG, VRT0009; CERT/CC VU#282450; versions: Nuvoton SA-005 as others cite it, not read itself",
		},
		{
			Family: "nuvoton", IDs: []string{"CVE-2026-6923"},
			Versions: []Range{{"7.0", "7.2.4.0"}},
			Affects:  Agreeing, Physical: true,
			Consequence: "With the chip in hand, an ECDH key can be extracted by a side channel. Signatures are not concerned.",
			Advice:      "Update NPCT7xx to 7.2.4.0 or newer; keep the machine under lock.",
			Source:      "CVE record CVE-2026-6923 (CNA: INCD, ILVN-2026-0259)",
		},
	}
}

// platforms are those of TPMs in platform firmware, and of what is around all of them.
func platforms() []Advisory {
	out := []Advisory{
		{
			Family: "amd", IDs: []string{"faulTPM"},
			Affects: Signing | Attesting | Agreeing, Physical: true,
			Consequence: "With the board in hand, a voltage glitch on the security processor gives all of the TPM's state: every key in it.",
			Advice:      "Shown on Zen 2 and Zen 3, and no firmware fixes it. Keep the machine under lock, and CA keys in an HSM.",
			Source:      "H. N. Jacob and others, faulTPM, 2023, arXiv:2304.14717",
		},
		{
			Family: "amd", IDs: []string{hmacSign},
			Consequence: hmacSignSays,
			Advice:      "Update the platform's firmware (AGESA; 1.2.0.3e for AM5 is reported to have it). The version of the fTPM that has the fix was not found.",
			Source:      "TCG, VRT0009; CERT/CC VU#282450; press reports of June 2025 on AGESA 1.2.0.3e. AMD's bulletin was not read.",
		},
		{
			Family: "intel", IDs: []string{hmacSign},
			Consequence: hmacSignSays,
			Advice:      "Update the platform's firmware (CSME, SPS) to what INTEL-SA-01209 names; the list was not read here.",
			Source:      "TCG, VRT0009; CERT/CC VU#282450; CVE record CVE-2025-2884, which refers to INTEL-SA-01209",
		},
	}
	for _, family := range []string{"infineon", "nuvoton", "st", "amd", "intel"} {
		out = append(out, Advisory{
			Family: family, IDs: []string{sleep}, About: Platform,
			Consequence: "Some machines let the PCRs start again from nothing after suspend to RAM: a quote then says what the attacker extends.",
			Advice:      "Disable suspend (S3) in the firmware setup and in systemd; an appliance never sleeps.",
			Source:      "S. Han and others, A Bad Dream, USENIX Security 2018; CVE record CVE-2018-6622, which names no products",
		})
	}
	return out
}

// emulators do not report the version of the library that they are made of.
func emulators() []Advisory {
	return []Advisory{
		{
			Family: "libtpms", IDs: []string{paramDec, "CVE-2023-1018"}, About: Library,
			Consequence: "Reference code: a crafted command reads or writes beyond a buffer of the emulator.",
			Advice:      "libtpms has to be 0.9.6 or newer, or carry the distribution's fix (Debian 12: 0.9.2-3.1). An emulator protects nothing in production.",
			Source:      "CERT/CC VU#782720; libtpms 0.9.6 release notes; Debian changelog of libtpms",
		},
		{
			Family: "libtpms", IDs: []string{"CVE-2025-49133", hmacSign}, About: Library,
			Consequence: "A crafted command makes the emulator abort.",
			Advice:      "libtpms has to be 0.7.12, 0.8.10, 0.9.7, 0.10.1 or newer, or carry the distribution's fix (Debian 12: 0.9.2-3.1+deb12u1).",
			Source:      "GHSA-25w5-6fjj-hf8g; CVE record CVE-2025-49133; Debian changelog of libtpms",
		},
		{
			Family: "libtpms", IDs: []string{"CVE-2021-3623", "CVE-2021-3746"}, About: Library,
			Consequence: "A crafted command makes the emulator access memory beyond its buffers when it saves its state.",
			Advice:      "libtpms has to be 0.6.6, 0.7.9, 0.8.5 or newer.",
			Source:      "CVE records CVE-2021-3623 and CVE-2021-3746 (CNA: Red Hat)",
		},
	}
}

// tokens are those of PKCS#11 tokens and their modules.
func tokens() []Advisory {
	return []Advisory{
		{
			Family: "yubihsm", IDs: []string{eucleak},
			Versions: []Range{{"2.0", "2.4"}},
			Affects:  Signing, Physical: true,
			Consequence: "EUCLEAK: with the device in hand, opened, and electromagnetic measurement, an ECDSA key can be extracted.",
			Advice:      "The firmware cannot be updated: replace the device by one with 2.4.0 or newer, and its ECDSA keys in a ceremony; until then keep it under lock.",
			Source:      "Yubico, YSA-2024-03, https://www.yubico.com/support/security-advisories/ysa-2024-03/; CVE record CVE-2024-45678",
		},
		{
			Family: "yubihsm", IDs: []string{"CVE-2020-24388", "CVE-2020-24387"}, About: Library,
			Versions:    []Range{{"0", "2.0.3"}},
			Consequence: "A device, or whoever sits between it and the module, can crash the process that has the module loaded.",
			Advice:      "Update the YubiHSM SDK (yubihsm-shell after 2.0.2); let the connector listen on loopback only.",
			Source:      "Yubico, YSA-2020-06; CVE record CVE-2020-24388",
		},
		{
			Family: "yubihsm", IDs: []string{"CVE-2021-32489"}, About: Library,
			Versions:    []Range{{"0", "2.0.4"}},
			Consequence: "A device, or whoever sits between it and the module, can crash the process that has the module loaded.",
			Advice:      "Update the YubiHSM SDK (yubihsm-shell after 2.0.3); let the connector listen on loopback only.",
			Source:      "CVE record CVE-2021-32489",
		},
		{
			Family: "yubihsm", IDs: []string{"CVE-2021-43399"}, About: Library,
			Consequence: "The library does not check the length of some answers of the device.",
			Advice:      "Use an SDK newer than 2021.08. The source names SDKs by date, the module reports another number.",
			Source:      "Yubico, YSA-2021-04; CVE record CVE-2021-43399",
		},
		{
			Family: "yubihsm", IDs: []string{"CVE-2023-39908"}, About: Library,
			Consequence: "The PKCS#11 module can disclose memory of its process when the attributes of objects are read.",
			Advice:      "Use an SDK newer than 2023.01. The source names SDKs by date, the module reports another number.",
			Source:      "Yubico, YSA-2023-01; CVE record CVE-2023-39908",
		},
		{
			Family: "sc-hsm", IDs: []string{"CVE-2023-40660"}, About: Library,
			Versions: []Range{{"0", "0.24"}},
			Affects:  Signing, Physical: true,
			Consequence: "OpenSC: while one process is logged in, another one can use the token's keys with an empty PIN.",
			Advice:      "OpenSC 0.24, or the distribution's fix (Debian 12: 0.23.0-0.3+deb12u1, which still reports 0.23). Nobody but signetd's user should reach the reader.",
			Source:      "CVE record CVE-2023-40660 (CNA: Red Hat); Debian changelog of opensc",
		},
		{
			Family: "luna", IDs: []string{"CVE-2015-5464"},
			Affects:     Signing,
			Consequence: "A logged-in user of a partition can get keys out that were not to be exported.",
			Advice:      "The source names no versions that a token reports: ask Thales whether the firmware has the fix of 2015, and guard the partition's PIN as the key itself until then.",
			Source:      "CVE record CVE-2015-5464, which refers to SafeNet's security updates of July 2015",
		},
		{
			Family: "nshield", IDs: []string{"CVE-2025-59695", "CVE-2025-59696"}, About: Platform,
			Consequence: "Of a series on the chassis of Connect XC, 5c and HSMi: with it in hand, or as root of it, the chassis' firmware and its record of tampering can be changed. By the maker the module inside and its keys are out of reach.",
			Advice:      "Update the image to 13.6.12 or 13.9.0; keep it under lock. The token does not report the image's version.",
			Source:      "CVE records CVE-2025-59695 and 59696; Entrust, Understanding the nShield security advisory, September 2025",
		},
		{
			Family: "utimaco", IDs: []string{"CVE-2018-19589"}, About: Library,
			Consequence: "PKCS#11 R2: with keys in external storage, a security officer of a slot can read their attributes and delete them. Nothing is disclosed or altered.",
			Advice:      "Keep keys inside the device (no external key storage), the SO's PIN apart from the user's; ask Utimaco for the fixed version.",
			Source:      "CVE record CVE-2018-19589, which names no versions",
		},
		{
			Family: "utimaco", IDs: []string{"CVE-2020-26155"}, About: Library,
			Consequence: "SecurityServer 4.20.0.4 and 4.31.1.0 are installed with files that any logged-in user can change, in a directory of PATH.",
			Advice:      "See to it that the module and its directory belong to root alone. The module does not report the product's version.",
			Source:      "CVE record CVE-2020-26155",
		},
	}
}

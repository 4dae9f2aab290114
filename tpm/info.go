package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Info is what the TPM says about itself. Nobody has signed it; the EK certificate says it with a maker's signature.
type Info struct {
	Manufacturer string // TCG vendor id, such as "IFX", "STM", "NTC", "INTC", "AMD", "IBM"
	Vendor       string
	Firmware     uint64
	// OrderlyCount is the greatest amount by which an orderly counter can differ from the truth after a power loss.
	OrderlyCount uint32
	// ClearDisabled is true where TPM2_ClearControl keeps TPM2_Clear from everybody but the firmware. A clear begins the counter
	// anew, under the same name, beside the same AK.
	ClearDisabled bool
	// Simulated is true for software and virtual TPMs, whose state can be copied back: development only.
	Simulated bool
}

// Info asks the TPM.
func (d *Device) Info(ctx context.Context) (Info, error) {
	var info Info
	err := d.do(ctx, "read properties", func(c *conn) (err error) {
		info, err = readInfo(c)
		return err
	})
	return info, err
}

// Simulated reports whether the TPM is a software or virtual one. A TPM that cannot be asked counts as one.
func (d *Device) Simulated(ctx context.Context) bool {
	info, err := d.Info(ctx)
	return err != nil || info.Simulated
}

// Check reports whether the TPM answers and, if AK and counter are pinned, whether these are still the ones.
func (d *Device) Check(ctx context.Context) error {
	return d.do(ctx, "check", func(c *conn) error {
		if _, err := (tpm2.ReadClock{}).Execute(c); err != nil {
			return err
		}
		d.forget()
		var errs []error
		if d.ak != nil || d.config.AKName != nil {
			_, err := d.loadAK(c)
			errs = append(errs, err)
		}
		if d.counter != nil || d.config.CounterName != nil {
			_, err := d.loadCounter(c)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

func readInfo(c *conn) (Info, error) {
	values, err := readProperties(c, tpm2.TPMPTFamilyIndicator, maxHandles)
	if err != nil {
		return Info{}, err
	}
	permanent, err := readProperties(c, tpm2.TPMPTPermanent, 1)
	if err != nil {
		return Info{}, err
	}
	if _, found := values[tpm2.TPMPTManufacturer]; !found {
		return Info{}, fmt.Errorf("%w: no manufacturer among %d properties", ErrRefused, len(values))
	}
	info := Info{
		Manufacturer: text(values[tpm2.TPMPTManufacturer]),
		Vendor: text(values[tpm2.TPMPTVendorString1], values[tpm2.TPMPTVendorString2],
			values[tpm2.TPMPTVendorString3], values[tpm2.TPMPTVendorString4]),
		Firmware:      uint64(values[tpm2.TPMPTFirmwareVersion1])<<32 | uint64(values[tpm2.TPMPTFirmwareVersion2]),
		OrderlyCount:  values[tpm2.TPMPTOrderlyCount],
		ClearDisabled: permanent[tpm2.TPMPTPermanent]&disableClear != 0,
	}
	info.Simulated = isSimulated(info)
	return info, nil
}

// disableClear is a bit of TPMA_PERMANENT (Part 2, 8.6).
const disableClear = 1 << 8

func readProperties(c *conn, first tpm2.TPMPT, count uint32) (map[tpm2.TPMPT]uint32, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(first), PropertyCount: count}.Execute(c)
	if err != nil {
		return nil, err
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return nil, err
	}
	values := make(map[tpm2.TPMPT]uint32, len(list.TPMProperty))
	for _, p := range list.TPMProperty {
		values[p.Property] = p.Value
	}
	return values, nil
}

// isSimulated knows libtpms (swtpm, QEMU), the reference simulator, and the virtual TPMs of hypervisors and clouds. It cannot
// know one that pretends: an EK certificate from a maker of chips is the only proof.
func isSimulated(info Info) bool {
	switch info.Manufacturer {
	case "IBM", "MSFT", "VMW", "GOOG", "AMZN", "SECE", "XCG":
		return true
	default:
		vendor := strings.ToLower(info.Vendor)
		return strings.HasPrefix(vendor, "sw ") || strings.HasPrefix(vendor, "xcg") || strings.Contains(vendor, "vtpm")
	}
}

// text reads four characters from each word and keeps what can be printed.
func text(words ...uint32) string {
	var raw []byte
	for _, w := range words {
		raw = binary.BigEndian.AppendUint32(raw, w)
	}
	printable := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(raw))
	return strings.TrimSpace(printable)
}

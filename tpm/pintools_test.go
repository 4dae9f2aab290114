package tpm

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// unsealScript is that of docs/formats/sealed-pin.md.
const unsealScript = `set -e
tpm2_loadexternal -Q -C o -u approver.pub -c approver.ctx -n approver.name
cat policy.pcr policy.ref > message
tpm2_verifysignature -Q -c approver.ctx -g sha256 -m message -s signature -f ecdsa -t ticket
tpm2_flushcontext -t
tpm2_load -Q -C 0x81000001 -u object.pub -r object.priv -c object.ctx
tpm2_startauthsession -Q --policy-session -S session.ctx
tpm2_policypcr -Q -S session.ctx -l sha256:0,1,2,3,4,5,6,7 -L policy.now
tpm2_policyauthorize -Q -S session.ctx -i policy.pcr -q policy.ref -n approver.name -t ticket
tpm2_unseal -c object.ctx -p session:session.ctx`

const flushScript = `tpm2_flushcontext -t; tpm2_flushcontext -l; tpm2_flushcontext -s`

// TestStockToolsUnseal: the format needs no line of ours to be read, and the TPM refuses stock tools as it refuses us.
func TestStockToolsUnseal(t *testing.T) {
	page, err := os.ReadFile("../docs/formats/sealed-pin.md")
	must(t, err)
	if !strings.Contains(string(page), "```sh\n"+unsealScript+"\n```") {
		t.Error("the page shows other commands")
	}
	s := newSealing(t)
	s.approve(s.pcrs())
	a := s.pin.approvals[0]
	policy, err := a.policy()
	must(t, err)
	dir := t.TempDir()
	write(t, dir, map[string][]byte{
		"approver.pub": tpm2.Marshal(tpm2.New2B(*approverPublic(s.pin.approver))), "policy.pcr": policy, "policy.ref": s.pin.reference(),
		"signature": a.signature, "object.pub": tpm2.Marshal(tpm2.BytesAs2B[tpm2.TPMTPublic](s.pin.public)),
		"object.priv": tpm2.Marshal(tpm2.TPM2BPrivate{Buffer: s.pin.private}),
	})
	t.Setenv("TPM2TOOLS_TCTI", s.rig.TCTI())
	out, err := tool(t, dir, "sh", "-c", unsealScript)
	if err != nil || out != testPIN {
		t.Errorf("tpm2_unseal: %v\n%s", err, out)
	}
	_, err = tool(t, dir, "sh", "-c", flushScript)
	must(t, err)
	s.extend(6)
	out, err = tool(t, dir, "sh", "-c", unsealScript)
	if err == nil || strings.Contains(out, testPIN) || !strings.Contains(out, "policyauthorize") && !strings.Contains(out, "PolicyAuthorize") {
		t.Errorf("tpm2_unseal under other values: %v\n%s", err, out)
	}
}

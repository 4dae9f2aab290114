package bundle

import (
	"errors"
	"fmt"

	"github.com/signet-pki/signet/tpm/quote"
)

// What findings about the TPM mean, for somebody who has never seen one: what happened or was hidden, what stays proven, and what
// does not. A finding is cut at maxDetail.
const (
	meansReset = "The machine was restarted or its TPM lost power. All that the log holds stays proven; seals made shortly before, " +
		"and entries that only they covered, could be missing without a trace"
	meansGap = "A seal was begun and could not be finished, because the machine slept in between. All that the log holds stays proven; " +
		"that nothing was sealed at that value and withheld is not"
	meansResetHidden = "The appliance writes that entry before it seals again: it was taken out, or something else continued the log. " +
		"What earlier seals cover stays proven; of what came since, nothing shows that it is all"
	meansSealsHidden = "Seals were made that are not here: the log was put back to an older copy and continued, or they were taken out. " +
		"What is here stays proven; what those seals covered is lost or withheld"
	meansBack = "A TPM counts upwards only: it was cleared and its counter begun anew, or its state was put back from an older copy. " +
		"What earlier seals cover stays proven to whoever kept them; other seals with the same numbers can exist"
	meansSealLost = "Seals were lost or taken out. The next seal still covers every entry before it; when those entries were written, " +
		"and that the TPM was not restarted meanwhile, is not shown"
	meansEndLost = "The last seals were lost or taken out, or the log was signed without the TPM. What the last seal covers stays proven; " +
		"whatever else the checkpoint covers can be changed by whoever has the audit key"
	meansOtherTPM = "This is not a statement of the TPM that entry 0 pins: the TPM was exchanged, the statement was made without it, or its bytes were changed. " +
		"Nothing ties this seal to that TPM"

	meansChange = "The machine was started with other firmware, settings or kernel. All that the log holds stays proven; whether that software records all " +
		"that it does, the log cannot tell: if you know it, list its values in the trust file"
	meansChangeInBoot = "These registers hold what the machine started with, and nothing should extend them afterwards: something did, " +
		"with access to the TPM. All that the log holds stays proven; what the registers state since is not how the machine was started"
	meansHiddenChange = "The appliance stores that entry together with the seal: it was taken out, or something else continued the log, " +
		"on software that is not the one before. What earlier seals cover stays proven; of what came since, nothing shows that it is all"
	meansUnsealedChange = "Whether an entry records it stands behind the last seal: a bundle that reaches further shows it"
)

// recorded, unrecorded and tooFar say what a jump of the counter means.
func (j *jump) recorded() string {
	if j.event == eventReset {
		return meansReset
	}
	return meansGap
}

func (j *jump) unrecorded() string {
	if j.event == eventReset {
		return meansResetHidden
	}
	return meansSealsHidden
}

func (j *jump) tooFar() string {
	if j.back {
		return meansBack
	}
	return meansSealsHidden
}

// otherTPM explains a statement that the attestation key did not sign.
func otherTPM(err error) error {
	if errors.Is(err, quote.ErrSignature) || errors.Is(err, quote.ErrSigner) {
		return fmt.Errorf("%w. %s", err, meansOtherTPM)
	}
	return err
}

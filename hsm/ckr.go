package hsm

import (
	"errors"

	"github.com/miekg/pkcs11"
)

// recoverable reports errors after which opening the token anew may help. Those that speak of the PIN never are: a
// repeated wrong PIN locks the token.
func recoverable(err error) bool {
	var final finalError
	if errors.Is(err, ErrPIN) || errors.Is(err, ErrClosed) || errors.Is(err, ErrHung) || errors.As(err, &final) {
		return false
	}
	if errors.Is(err, ErrUnavailable) {
		return true
	}
	var code pkcs11.Error
	if !errors.As(err, &code) {
		return false
	}
	switch code {
	case pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_USER_NOT_LOGGED_IN,
		pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
		pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_SLOT_ID_INVALID,
		pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED,
		pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED,
		// A session whose operation state is out of step cannot be repaired in any other way.
		pkcs11.CKR_OPERATION_ACTIVE, pkcs11.CKR_OPERATION_NOT_INITIALIZED:
		return true
	default:
		return false
	}
}

// aboutPIN reports the return values of C_Login after which the same PIN must not be presented again.
func aboutPIN(err error) bool {
	var code pkcs11.Error
	if !errors.As(err, &code) {
		return false
	}
	switch code {
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED,
		pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_TOO_WEAK, pkcs11.CKR_USER_PIN_NOT_INITIALIZED:
		return true
	default:
		return false
	}
}

func isCode(err error, want pkcs11.Error) bool {
	var code pkcs11.Error
	return errors.As(err, &code) && code == want
}

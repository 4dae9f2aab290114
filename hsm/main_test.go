package hsm_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/signet-pki/signet/hsm"
)

// apart is the command that makes this program the process of a module.
var apart = []string{"/proc/self/exe", "serve-module"}

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == apart[1] {
		if err := hsm.ServeModule(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

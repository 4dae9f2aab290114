package appliance

import (
	"fmt"
	"os"
	"testing"
)

// TestMain lets this program be the process of an isolated module, as signetd is, and a restore that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == moduleProcess[1] {
		if err := ServeModule(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == restoring {
		if err := runRestoreJob(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

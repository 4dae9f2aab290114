// Package softhsmtest holds the end-to-end, interoperability, fault and crash suites of the whole appliance, on a real
// SoftHSM and a real swtpm. They run the programs as a user does: built once, each with a directory of its own, spoken to
// over HTTPS, stopped and killed by their process ids.
//
// Nothing imports it. A missing program fails a test and names the package to install. SIGNET_SOAK=1 makes the suites
// of kills, changes of policy and replays long.
package softhsmtest

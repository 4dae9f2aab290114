#!/bin/sh
# Makes sure that the system packages which Signet builds, runs and tests with are there: silent when they are.
# As root with apt it installs what is missing; otherwise it names the command and exits 1.
# With the argument "test" it also looks for what the tests alone need.
set -eu

missing=''

# need PACKAGE PROBE: PROBE is a command, or an absolute path.
need() {
	case $2 in
	/*) [ -e "$2" ] ;;
	*) command -v "$2" >/dev/null 2>&1 ;;
	esac || missing="$missing $1"
}

need gcc gcc
need libc6-dev /usr/include/stdio.h
need softhsm2 softhsm2-util
need swtpm swtpm
need swtpm-tools swtpm_setup
need tpm2-tools tpm2_checkquote
need opensc pkcs11-tool
need openssl openssl
need xxd xxd

if [ "${1:-}" = test ]; then
	need python3 python3
	need nginx-light /usr/sbin/nginx
	need curl curl
	need strace strace
	need gnutls-bin gnutls-cli
	# Custodians sign with it.
	need openssh-client ssh-keygen
	# A second PKCS#11 module, over a TPM.
	need libtpm2-pkcs11-1 "/usr/lib/$(gcc -print-multiarch 2>/dev/null)/libtpm2_pkcs11.so.1"
	# OpenSSL's provider for TPMs, another reader of key files.
	need tpm2-openssl "/usr/lib/$(gcc -print-multiarch 2>/dev/null)/ossl-modules/tpm2.so"
	# A collector of syslog, and its TLS.
	need rsyslog /usr/sbin/rsyslogd
	need rsyslog-gnutls "/usr/lib/$(gcc -print-multiarch 2>/dev/null)/rsyslog/lmnsd_gtls.so"
	# An OpenID provider and a browser that nobody here wrote.
	need nodejs node
	need npm npm
	need chromium chromium
fi

[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
	echo "missing (Debian package names):$missing; install your system's equivalents" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "missing system packages; run: sudo apt-get install --no-install-recommends$missing" >&2
	exit 1
fi

echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# The package lists of a fresh machine are often absent or stale: a failed first attempt is retried with new ones.
# shellcheck disable=SC2086 # a list of words on purpose
apt-get install -y -qq -o DPkg::Lock::Timeout=120 --no-install-recommends $missing >/dev/null 2>&1 || {
	apt-get update -qq
	apt-get install -y -qq -o DPkg::Lock::Timeout=120 --no-install-recommends $missing >/dev/null
}

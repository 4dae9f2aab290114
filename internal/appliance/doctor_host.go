package appliance

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/internal/durable"
)

// Checks of files, disk and clock.
const (
	idCertificates = "certificates"
	idDir          = "data_dir"
	idSecret       = "secret_files"
	idSpace        = "disk_space"
	idSync         = "disk_sync"
	idClockLog     = "clock_log"
	idClockNTP     = "clock_synchronised"
)

// examineCertificates says whether the certificates are there and hang together. Which key has which is the tokens' part.
func (c *Config) examineCertificates(trustErr error) []Finding {
	const why, fix = "nobody can verify what is issued under others", "restore pki as the ceremony left it"
	if trustErr != nil {
		return []Finding{bad(idCertificates, c.pkiDir(), trustErr.Error(), why, fix)}
	}
	t, err := c.loadTrust()
	if err != nil {
		return []Finding{bad(idCertificates, c.pkiDir(), err.Error(), why, fix)}
	}
	for _, cert := range append(append([]*x509.Certificate{t.jwt}, t.agents...), t.services...) {
		if err := cert.CheckSignatureFrom(t.root); err != nil {
			return []Finding{bad(idCertificates, c.pkiDir(), fmt.Sprintf("%q is not signed by root.pem: %v", cert.Subject.CommonName, err), why, fix)}
		}
	}
	return []Finding{good(idCertificates, c.pkiDir(), fmt.Sprintf("%d CAs below one root", len(t.agents)+len(t.services)))}
}

// examineFiles looks at the directory, and at what is in it if there is one.
func (c *Config) examineFiles(now time.Time) []Finding {
	out := []Finding{c.examineDir()}
	if _, err := os.Stat(c.logDir()); err != nil {
		for _, id := range []string{idSecret, idSpace, idSync, idClockLog} {
			out = append(out, skipped(id, c.Dir, idDir))
		}
		return out
	}
	return append(out, c.examineSecrets(), c.examineSpace(), c.examineSync(), c.examineLogTime(now))
}

// examineDir looks at who else may change what the appliance keeps.
func (c *Config) examineDir() Finding {
	if _, err := os.Lstat(c.Dir); err != nil {
		return bad(idDir, c.Dir, err.Error(), "everything that the appliance keeps is there", "the path of dir; was there a ceremony? signetd init")
	}
	if err := errors.Join(c.checkDir(c.Dir, 0o022), c.checkDir(c.pkiDir(), 0o022), c.checkDir(c.logDir(), 0o077), checkAncestors(c.Dir)); err != nil {
		return bad(idDir, c.Dir, err.Error(), "who can write there can put another log, key or certificate in its place", "chown -R to the daemon's user; chmod 0700 DIR DIR/log DIR/pki")
	}
	return good(idDir, c.Dir, "its owner's alone to change")
}

func (c *Config) examineSecrets() Finding {
	secrets := c.secretFiles()
	var errs []error
	for _, path := range secrets {
		errs = append(errs, c.checkSecret(path))
	}
	if err := errors.Join(errs...); err != nil {
		return bad(idSecret, c.Dir, err.Error(), "who can read them can name users from the log, or speak for the appliance", "chown to the daemon's user and chmod 0600, or a systemd credential")
	}
	return good(idSecret, c.Dir, fmt.Sprintf("%d files are for few to read", len(secrets)))
}

// secretFiles are those besides the PINs.
func (c *Config) secretFiles() []string {
	out := []string{c.indexKey()}
	if c.Witness != nil {
		out = append(out, filepath.Join(c.witnessDir(), witnessKeyFile))
	}
	add := func(path string) {
		if path != "" {
			out = append(out, c.path(path))
		}
	}
	for _, idp := range c.IdentityProviders {
		add(idp.ClientSecretFile)
	}
	for _, s := range c.SIEM {
		add(s.KeyFile)
		add(s.TokenFile)
	}
	if c.Policy.Pull != nil {
		add(c.Policy.Pull.TokenFile)
	}
	return out
}

// secretForbidden leaves reading to the group, since systemd shows a credential's access list as mode 0440.
const secretForbidden fs.FileMode = 0o037

func (c *Config) checkSecret(path string) error {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("%s is a symbolic link: who can change it chooses the file", path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a file", path)
	case info.Mode().Perm()&secretForbidden != 0:
		return fmt.Errorf("%s has mode %04o", path, info.Mode().Perm())
	}
	return errors.Join(c.checkOwner(path, info), checkAncestors(path))
}

func (c *Config) checkDir(path string, forbidden fs.FileMode) error {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("%s is a symbolic link: name where it leads", path)
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", path)
	case info.Mode().Perm()&forbidden != 0:
		return fmt.Errorf("%s has mode %04o", path, info.Mode().Perm())
	}
	return c.checkOwner(path, info)
}

// checkOwner wants the daemon's user, whom the data directory belongs to, or root.
func (c *Config) checkOwner(path string, info fs.FileInfo) error {
	dir, err := os.Stat(c.Dir)
	if err != nil {
		return nil //nolint:nilerr // reported for the directory itself
	}
	if me := os.Geteuid(); me != 0 && owner(dir) != me {
		return fmt.Errorf("%s belongs to user %d, and this is user %d", c.Dir, owner(dir), me)
	}
	if o := owner(info); o != 0 && o != owner(dir) {
		return fmt.Errorf("%s belongs to user %d, the data directory to user %d", path, o, owner(dir))
	}
	return nil
}

func owner(info fs.FileInfo) int {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(st.Uid)
}

// checkAncestors finds a directory on the way in which everybody can rename what is there. The sticky bit forbids that.
func checkAncestors(path string) error {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("%s, above %s, is for everybody to write", dir, path)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func (c *Config) examineSpace() Finding {
	const why, fix = "below it the log takes nothing, and nothing is issued", "free space, or a larger file system; audit.min_free"
	free, err := durable.FreeBytes(c.logDir())
	if err != nil {
		return bad(idSpace, c.logDir(), err.Error(), why, fix)
	}
	total, err := durable.TotalBytes(c.logDir())
	if err != nil {
		return bad(idSpace, c.logDir(), err.Error(), why, fix)
	}
	least := c.Audit.MinFree
	if least == 0 {
		least = total / 10
	}
	what := fmt.Sprintf("%d MiB free, of which the watermark keeps %d MiB", free>>20, least>>20)
	switch {
	case free < least:
		return bad(idSpace, c.logDir(), what, why, fix)
	case free < 2*least:
		return warned(idSpace, c.logDir(), what, why, fix)
	default:
		return good(idSpace, c.logDir(), what)
	}
}

// slowSync is a latency of fsync from which each entry is felt.
const slowSync = 100 * time.Millisecond

// examineSync writes a file that has no name and is gone with its descriptor.
func (c *Config) examineSync() Finding {
	const why = "an entry that was acknowledged must survive a power loss"
	kind, keeps, err := fileSystem(c.logDir())
	if err != nil {
		return bad(idSync, c.logDir(), err.Error(), why, "see to the file system")
	}
	if !keeps {
		return c.inDevelopment(bad(idSync, c.logDir(), kind+" keeps nothing", why, "a file system on a disk"))
	}
	took, err := syncOnce(c.logDir())
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR):
		return warned(idSync, c.logDir(), kind+" has no files without names, so that fsync was not tried", why, "ext4 or XFS on a local disk")
	case err != nil:
		return bad(idSync, c.logDir(), err.Error(), why, "see to the disk and the file system")
	case took > slowSync:
		return warned(idSync, c.logDir(), fmt.Sprintf("fsync on %s took %v", kind, took.Round(time.Millisecond)), "each issuance waits for one", "a disk with power-loss protection")
	default:
		return good(idSync, c.logDir(), fmt.Sprintf("fsync on %s took %v", kind, took.Round(10*time.Microsecond)))
	}
}

func syncOnce(dir string) (time.Duration, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return 0, fmt.Errorf("open a file without a name in %s: %w", dir, err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing in it matters
	if _, err := unix.Write(fd, make([]byte, 4096)); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	start := time.Now()
	if err := unix.Fsync(fd); err != nil {
		return 0, fmt.Errorf("fsync: %w", err)
	}
	return time.Since(start), nil
}

// fileSystem names the kind, and tells whether it can keep anything over a power loss at all.
func fileSystem(dir string) (kind string, keeps bool, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", false, fmt.Errorf("%s: %w", dir, err)
	}
	switch int64(st.Type) { //nolint:unconvert // int32 on some architectures
	case unix.TMPFS_MAGIC:
		return "tmpfs", false, nil
	case unix.RAMFS_MAGIC:
		return "ramfs", false, nil
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", true, nil
	case unix.XFS_SUPER_MAGIC:
		return "xfs", true, nil
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", true, nil
	case unix.NFS_SUPER_MAGIC:
		return "nfs", true, nil
	default:
		return fmt.Sprintf("file system %#x", st.Type), true, nil
	}
}

// behind is how far the clock may be before the last entry: the log's own tolerance.
const behind = 5 * time.Second

func (c *Config) examineLogTime(now time.Time) Finding {
	const why = "the log takes no entry before its last one (clock_behind), and certificates would be of the wrong time"
	last, err := audit.LastWrite(c.logDir())
	switch {
	case err != nil:
		return bad(idClockLog, c.logDir(), err.Error(), "there is no log to compare the clock with", "was there a ceremony? signetd init; else see docs/operations.md, Readiness")
	case last.Sub(now) > behind:
		return bad(idClockLog, c.logDir(), fmt.Sprintf("the clock says %s, the log was last written at %s", now.UTC().Format(time.RFC3339), last.UTC().Format(time.RFC3339)), why,
			"set the clock right; if the later time was wrong, wait for it")
	default:
		return good(idClockLog, c.logDir(), "the clock is not before the last entry, of "+last.UTC().Format(time.RFC3339))
	}
}

// examineNTP asks the kernel what the time service last told it.
func examineNTP() Finding {
	const why, fix = "deadlines are kept by this clock", "chrony, ntpd or systemd-timesyncd"
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	switch {
	case err != nil:
		return warned(idClockNTP, "kernel", "it does not say: "+err.Error(), why, fix)
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		return warned(idClockNTP, "kernel", "no time service keeps the clock", why, fix)
	default:
		return good(idClockNTP, "kernel", "a time service keeps the clock")
	}
}

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
)

// onDisk is what the files below dir occupy: blocks, so that the unwritten part of a file made longer in advance does not count.
func onDisk(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && d.Type().IsRegular() {
			sum += st.Blocks * 512 // stat(2): of 512 bytes, whatever the file system's
		}
		return nil
	})
	return sum, err
}

// handedIn is how many bytes of envelopes, salts and payloads a bundle holds, as the log was given them.
func handedIn(files fs.FS) (sum int64, err error) {
	for _, dir := range []string{"entries", "payloads"} {
		names, err := fs.Glob(files, dir+"/*.jsonl")
		if err != nil {
			return 0, err
		}
		for _, name := range names {
			data, err := fs.ReadFile(files, name)
			if err != nil {
				return 0, err
			}
			n, err := bytesOf(dir, data)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", name, err)
			}
			sum += n
		}
	}
	return sum, nil
}

func bytesOf(dir string, lines []byte) (sum int64, err error) {
	in := bufio.NewScanner(bytes.NewReader(lines))
	in.Buffer(nil, len(lines)+1)
	for in.Scan() {
		if dir == "entries" {
			sum += int64(len(in.Bytes()))
			continue
		}
		var line struct{ Salt, Payload []byte }
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			return 0, err
		}
		sum += int64(len(line.Salt) + len(line.Payload))
	}
	return sum, in.Err()
}

// diskFact is how much the appliance's store has grown over what it was handed.
func (b *bench) diskFact(files fs.FS, entries int) error {
	in, err := handedIn(files)
	if err != nil {
		return err
	}
	out, err := onDisk(filepath.Join(b.tmp, "dev", "log", "db"))
	if err != nil {
		return err
	}
	b.facts = append(b.facts, fact{
		"The appliance's store on disk, over envelopes, salts and payloads", fmt.Sprintf("%d entries", entries),
		fmt.Sprintf("%.2f of %d MB", float64(out)/float64(in), in>>20), "≤ 2.5",
	})
	return nil
}

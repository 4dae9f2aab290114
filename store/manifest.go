package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/dgraph-io/badger/v4/pb"
	"google.golang.org/protobuf/proto"
)

// manifestHeader is magic and version, which Badger checks.
const manifestHeader = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// changeSet is what Badger writes to its MANIFEST at once: one when a memtable became a table, one when a compaction
// replaced tables by others.
type changeSet struct {
	raw     []byte // with length and CRC-32C before it
	changes []*pb.ManifestChange
}

// flush reports whether the set is about a memtable that became a table.
func (s changeSet) flush() bool {
	return len(s.changes) == 1 && s.changes[0].GetOp() == pb.ManifestChange_CREATE && s.changes[0].GetLevel() == 0
}

// compaction reports whether the set replaces tables.
func (s changeSet) compaction() bool {
	return slices.ContainsFunc(s.changes, func(c *pb.ManifestChange) bool { return c.GetOp() == pb.ManifestChange_DELETE })
}

// parseManifest reads header and change sets. What is torn at the end was never reported as written; Badger cuts it off.
func parseManifest(data []byte) (header []byte, sets []changeSet, err error) {
	if len(data) < manifestHeader {
		return nil, nil, errors.New("it is too short")
	}
	size := int64(len(data))
	header, data = data[:manifestHeader], data[manifestHeader:]
	for len(data) >= 8 {
		n := int64(binary.BigEndian.Uint32(data))
		if n > size {
			return nil, nil, fmt.Errorf("change set %d is longer than the file", len(sets))
		}
		if n > int64(len(data)-8) {
			break
		}
		body := data[8 : 8+n]
		if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(data[4:]) {
			return nil, nil, errors.New("its checksum is wrong")
		}
		var set pb.ManifestChangeSet
		if err := proto.Unmarshal(body, &set); err != nil {
			return nil, nil, fmt.Errorf("change set %d: %w", len(sets), err)
		}
		sets = append(sets, changeSet{raw: data[:8+n], changes: set.GetChanges()})
		data = data[8+n:]
	}
	return header, sets, nil
}

// named is a table as MANIFEST tells it.
type named struct {
	set         int // that made it
	compression uint32
}

// errUsed: a table that is to be withdrawn was used later, so it was there once.
var errUsed = errors.New("a table that is missing was used")

// fold says which tables there are after all sets but those that are withdrawn.
func fold(sets []changeSet, withdrawn map[int]bool) (map[uint64]named, error) {
	tables, gone := map[uint64]named{}, map[uint64]bool{}
	for i, set := range sets {
		for _, c := range set.changes {
			id := c.GetId()
			switch {
			case withdrawn[i]:
				gone[id] = gone[id] || c.GetOp() == pb.ManifestChange_CREATE
			case c.GetOp() == pb.ManifestChange_CREATE:
				if _, ok := tables[id]; ok {
					return nil, fmt.Errorf("table %d is made twice", id)
				}
				tables[id] = named{set: i, compression: c.GetCompression()}
				delete(gone, id)
			case gone[id]:
				return nil, fmt.Errorf("%w: %d", errUsed, id)
			default:
				delete(tables, id) // Badger takes no offence at one that is not there
			}
		}
	}
	return tables, nil
}

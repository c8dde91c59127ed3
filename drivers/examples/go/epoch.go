package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// staleEpoch says that a higher epoch than the one asked for was seen before.
type staleEpoch struct{ asked, highest uint64 }

func (e staleEpoch) Error() string {
	return fmt.Sprintf("epoch %d is refused: this driver has seen epoch %d, so another site has been chosen since. "+
		"Nothing was done; read the group's status and decide anew", e.asked, e.highest)
}

// epochGuard remembers the highest epoch ever seen of each component.
//
// Invariants: what highest returns is on disk (file and directory synced) and never falls, within a process and across
// restarts; a file that cannot be read is never taken for "no epoch yet".
type epochGuard struct {
	directory string
	mutex     sync.Mutex
	known     map[componentName]uint64
	// Tests put a failing one here.
	sync func(*os.File) error
}

// componentName is what an epoch belongs to.
type componentName struct{ Group, Component string }

// epochRecord is the file's first line; the second one is its CRC-32. The SDK's `repair_epoch` writes the same.
type epochRecord struct {
	Component string `json:"component"`
	Epoch     uint64 `json:"epoch"`
	Group     string `json:"group"`
	Version   int    `json:"version"`
}

func newEpochGuard(directory string) *epochGuard {
	return &epochGuard{directory: directory, known: map[componentName]uint64{}, sync: (*os.File).Sync}
}

// highest returns the highest epoch ever admitted, 0 when none was.
func (g *epochGuard) highest(name componentName) (uint64, error) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	return g.load(name)
}

// admit lets a call with this epoch pass, after making it durable when it is new.
func (g *epochGuard) admit(name componentName, epoch uint64) error {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	highest, err := g.load(name)
	if err != nil {
		return err
	}
	if epoch < highest {
		return staleEpoch{epoch, highest}
	}
	if epoch > highest {
		if err := g.store(name, epoch); err != nil {
			return fmt.Errorf("epoch %d of %s/%s cannot be made durable in %s: %w. Nothing was done; make the "+
				"directory writable, then call again", epoch, name.Group, name.Component, g.directory, err)
		}
		g.known[name] = epoch
	}
	return nil
}

// path is the component's file. Names have no underscore, so two components never share one.
func (g *epochGuard) path(name componentName) string {
	return filepath.Join(g.directory, name.Group+"_"+name.Component+".epoch")
}

func (g *epochGuard) load(name componentName) (uint64, error) {
	if epoch, ok := g.known[name]; ok {
		return epoch, nil
	}
	content, err := os.ReadFile(g.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		g.known[name] = 0
		return 0, nil
	}
	var epoch uint64
	if err == nil {
		epoch, err = decodeEpoch(content, name)
	}
	if err != nil {
		return 0, fmt.Errorf("the epoch of %s/%s in %s cannot be trusted (%w), so no role may be changed here. Look up "+
			"the group's epoch with `graf status`, then run on this site: python -m graf_driver_sdk.repair_epoch %s %s %s "+
			"EPOCH, and restart the driver", name.Group, name.Component, g.path(name), err, g.directory, name.Group,
			name.Component)
	}
	g.known[name] = epoch
	return epoch, nil
}

// store writes beside the file, syncs, renames, and syncs the directory: a power cut leaves the old epoch or the new one.
func (g *epochGuard) store(name componentName, epoch uint64) error {
	if err := os.MkdirAll(g.directory, 0o700); err != nil {
		return err
	}
	body, err := json.Marshal(epochRecord{name.Component, epoch, name.Group, 1})
	if err != nil {
		return err
	}
	path := g.path(name)
	temporary := filepath.Join(g.directory, "."+filepath.Base(path)+".new")
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "%s\n%08x\n", body, crc32.ChecksumIEEE(body))
	if err == nil {
		err = g.sync(file)
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	folder, err := os.Open(g.directory)
	if err != nil {
		return err
	}
	defer folder.Close()
	return g.sync(folder)
}

func decodeEpoch(content []byte, name componentName) (uint64, error) {
	lines := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
	if len(lines) != 2 {
		return 0, fmt.Errorf("%d lines instead of 2", len(lines))
	}
	if lines[1] != fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(lines[0]))) {
		return 0, errors.New("the checksum does not fit")
	}
	var record epochRecord
	if err := json.Unmarshal([]byte(lines[0]), &record); err != nil {
		return 0, err
	}
	if record.Version != 1 {
		return 0, fmt.Errorf("version %d is not known to this driver", record.Version)
	}
	if (componentName{record.Group, record.Component}) != name {
		return 0, fmt.Errorf("it belongs to %s/%s", record.Group, record.Component)
	}
	return record.Epoch, nil
}

package records

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Dir is a store in a directory: see the root's DirStore. It has no state, so
// processes and goroutines may share a directory. It looks at the context when it
// begins: a system call that hangs on a network file system is bounded by Access.
type Dir string

const (
	// tempPrefix begins the names of files that are being written. No record's name
	// begins so: see path.
	tempPrefix = "staple-temp-"
	tempLife   = time.Hour // of what a killed process left
	// recordLife is how long a record is kept at least: one that is in use is
	// written at each refresh. The records of replaced certificates go after it, as the
	// Stapler deletes only that of one which it serves until it expires.
	recordLife = 7 * 24 * time.Hour
	// maxSwept is how many records a sweep looks at: with 50,000 files a Put that
	// sweeps takes 0.16 s.
	maxSwept = 256
)

// Get returns the record under key; an error that is fs.ErrNotExist if there
// is none.
func (d Dir) Get(ctx context.Context, key string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return readRecord(d.path(key))
}

// readRecord returns what is in a file, if it may be a record: a regular file of
// MaxSize at most. Others may write to a shared directory, so it looks at the file that it
// has opened: another may take the name at any time.
func readRecord(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|nonBlocking, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("staple: %s is not a file", name) // a pipe would never end
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err == nil && len(data) > MaxSize {
		err = fmt.Errorf("staple: %s is larger than any record", name)
	}
	return data, err
}

// Put writes data under key. The old record stays if it fails: the data goes into a
// temporary file, to the disk, and under its name by a rename, which replaces a file
// whole or not at all. One Put in 64 sweeps.
func (d Dir) Put(ctx context.Context, key string, data []byte) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir(), 0o700); err != nil {
		return err
	}
	if rand.N(64) == 0 {
		d.sweep()
	}
	f, err := os.CreateTemp(d.dir(), tempPrefix) // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(f.Name())))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync() // or a crash may leave the new name with no data
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), d.path(key))
}

// Delete removes the record under key. That there is none is no error: another process
// that shares the directory may have deleted it.
func (d Dir) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return ignoreMissing(os.Remove(d.path(key)))
}

// dir returns the directory: the working directory if d is empty.
func (d Dir) dir() string {
	if d == "" {
		return "."
	}
	return string(d)
}

// path returns the file for key. A key that is not a portable file name is hashed, so
// no key leaves the directory, and two that differ in case alone have two files.
func (d Dir) path(key string) string {
	name := strings.Map(func(c rune) rune {
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' {
			return c
		}
		return -1
	}, key)
	if name != key || len(name) < 8 || len(name) > 100 || strings.HasPrefix(name, tempPrefix) {
		sum := sha256.Sum256([]byte(key))
		name = "key-" + hex.EncodeToString(sum[:])
	}
	return filepath.Join(d.dir(), name+".pem")
}

// sweep removes temporary files of killed processes and useless records. It checks a
// random sample of the records: there may be many, and a Put waits for it. Failures
// are ignored: another sweep comes. Files that are not of this package are not
// touched.
func (d Dir) sweep() {
	var found []string
	seen := 0
	d.each(func(name string) {
		path := filepath.Join(d.dir(), name)
		switch {
		case strings.HasPrefix(name, tempPrefix):
			if unwritten(path, tempLife) {
				_ = os.Remove(path)
			}
		case !strings.HasPrefix(name, keyPrefix) || filepath.Ext(name) != ".pem":
		case len(found) < maxSwept:
			found = append(found, path)
			seen++
		default: // with equal chances for all
			seen++
			if i := rand.IntN(seen); i < maxSwept {
				found[i] = path
			}
		}
	})
	for _, path := range found {
		if useless(path) {
			_ = os.Remove(path)
		}
	}
}

// each calls f for the names in the directory, 1,024 in memory at a time. An error
// ends it: a sweep is no reason to fail a Put.
func (d Dir) each(f func(name string)) {
	dir, err := os.Open(d.dir())
	if err != nil {
		return
	}
	defer dir.Close()
	for err == nil {
		var names []string
		names, err = dir.Readdirnames(1024)
		for _, name := range names {
			f(name)
		}
	}
}

// unwritten reports whether a regular file was not written for d. A symbolic link is
// no regular file, and stays.
func unwritten(name string, d time.Duration) bool {
	fi, err := os.Lstat(name)
	return err == nil && fi.Mode().IsRegular() && time.Since(fi.ModTime()) > d
}

// useless reports whether a file is a record that has expired and is not renewed. What
// can't be read or is no record stays: it may be somebody else's.
func useless(name string) bool {
	if !unwritten(name, recordLife) {
		return false
	}
	data, err := readRecord(name)
	if err != nil {
		return false
	}
	return Expired(data, time.Now())
}

// ignoreMissing returns err, or nil if it says that a file is not there.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

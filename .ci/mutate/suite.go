package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// memory is what a test may have of address space, in KiB.
const memory = 8 << 20

// A suite is the tests of one package, with mutants compiled into what they test.
type suite struct {
	dir      string
	replaced map[string]string // text by file
	binary   string            // empty: not built
	tests    []*test           // the quickest first
}

type test struct {
	name    string
	took    time.Duration
	reaches map[int]bool // mutants
}

// prepare builds the tests and sees which mutants each of them reaches.
func (s *suite) prepare(tmp string) error {
	if s.binary != "" {
		return nil
	}
	if err := s.build(tmp); err != nil {
		return err
	}
	out, err := exec.Command(s.binary, "-test.list", *tests).Output()
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(out)) {
		reached := filepath.Join(tmp, "reached")
		os.Remove(reached)
		t, begun := &test{name: name, reaches: make(map[int]bool)}, time.Now()
		_, err := s.run("^"+name+"$", *budget, "MUTANT_LOG="+reached)
		if t.took = time.Since(begun); t.took > *budget {
			continue
		}
		if err != nil { // writing the log allocates, which a test may count
			if text, err := s.run("^"+name+"$", *budget); err != nil {
				fmt.Printf("%s fails with nothing broken, and is left out: %s\n", name, firstFailure(text))
				continue
			}
		}
		lines, _ := os.ReadFile(reached)
		for _, id := range strings.Fields(string(lines)) {
			n, err := strconv.Atoi(id)
			if err != nil {
				return err
			}
			t.reaches[n] = true
		}
		s.tests = append(s.tests, t)
	}
	slices.SortStableFunc(s.tests, func(a, b *test) int { return cmp.Compare(a.took, b.took) })
	return nil
}

func (s *suite) build(tmp string) error {
	over, err := overlay(s.replaced, tmp)
	if err != nil {
		return err
	}
	binary, err := filepath.Abs(filepath.Join(tmp, strings.ReplaceAll(filepath.Clean(s.dir), string(filepath.Separator), "_")+".test"))
	if err != nil {
		return err
	}
	if s.tests != nil {
		binary += ".constant"
	}
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-overlay", over, "-o", binary, "./"+s.dir)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	s.binary = binary
	return nil
}

// reaching returns the tests that reach m, as far as there is time.
func (s *suite) reaching(m mutant) (tests []string, took time.Duration) {
	for _, t := range s.tests {
		if (m.text != "" || t.reaches[m.id]) && took+t.took <= *budget {
			tests, took = append(tests, t.name), took+t.took
		}
	}
	return tests, took
}

// fails returns which of the tests fails, with a mutant on.
func (s *suite) fails(tests []string, id int, timeout time.Duration) string {
	out, err := s.run("^("+strings.Join(tests, "|")+")$", timeout, "MUTANT="+strconv.Itoa(id))
	if err == nil {
		return ""
	}
	return s.dir + " " + firstFailure(out)
}

func (s *suite) run(tests string, timeout time.Duration, env ...string) (out []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout+5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", fmt.Sprintf(`ulimit -v %d; exec "$0" "$@"`, memory), s.binary,
		"-test.short", "-test.failfast", "-test.timeout="+timeout.String(), "-test.run="+tests)
	cmd.Dir, cmd.Env, cmd.WaitDelay = s.dir, append(os.Environ(), env...), time.Second
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) { // a child of a test has the output still
		err = nil
	}
	return buf.Bytes(), err
}

var failure = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^panic: .*|^fatal error: .*`)

func firstFailure(out []byte) string {
	if m := failure.Find(out); m != nil {
		return strings.TrimSpace(string(m))
	}
	return "does not end"
}

// Command mutate breaks single conditions of packages and lists what no test
// notices. Run it at the root of the repository:
//
//	go run ./.ci/mutate [-only regexp] [-sample n] [package or file of the root] ...
//
// The tree stays as it is: go's -overlay compiles all mutants into one test binary of
// each package, and a variable of the environment says which of them is on. Each test
// runs once by itself, to see which mutants it reaches; a mutant is run against the
// tests that reach it, the quickest first. Only what a package's own tests do not
// notice is run against the short tests of the root and of scenario. A test that does
// not end, or that runs out of memory, has noticed. A constant is compiled by itself,
// and run against its package's own tests.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

var (
	only   = flag.String("only", "", "break only what has a line in the list that matches this `regexp`")
	sample = flag.Int("sample", 1, "break every `n`th condition")
	tests  = flag.String("run", "^(Test|Example|Fuzz)", "run only tests whose names match this `regexp`")
	budget = flag.Duration("budget", 30*time.Second, "how long the tests of a package may take that a mutant is run against")
	own    = flag.Bool("own", false, "run only the tests of the package itself")
	all    = flag.Bool("v", false, "list what is noticed, too, with the test that does")
)

var targets = []string{"internal/ocspresp", "internal/ocsphttp", "internal/held", "internal/records", "internal/issuers", "internal/schedule",
	"install.go", "stapler.go", "cache.go"}

func main() {
	log.SetFlags(0)
	flag.Parse()
	if flag.NArg() > 0 {
		targets = flag.Args()
	}
	tmp, err := os.MkdirTemp("", "mutate")
	if err != nil {
		log.Fatal(err)
	}
	err = run(targets, tmp)
	os.RemoveAll(tmp)
	if err != nil {
		log.Fatal(err)
	}
}

// run breaks the conditions of packages and of single files.
func run(targets []string, tmp string) error {
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	var b breaker
	for _, target := range targets {
		if err := b.target(filepath.Clean(target)); err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
	}
	replaced := b.replaced()
	suites := make(map[string]*suite) // by directory
	for _, m := range b.mutants {
		for _, dir := range []string{filepath.Dir(m.file), ".", "scenario"} {
			suites[dir] = &suite{dir: dir, replaced: replaced}
		}
	}
	broken, missed := make(map[string]int), make(map[string]int) // by file
	for n, m := range b.mutants {
		if n%*sample != 0 || !pattern.MatchString(m.String()) {
			continue
		}
		by, reached, err := notice(m, suites, tmp)
		if err != nil {
			return fmt.Errorf("%v: %w", m, err)
		}
		broken[m.file]++
		switch {
		case by == "" && reached:
			fmt.Println(m)
		case by == "":
			fmt.Println(m, "(not reached)")
		case *all:
			fmt.Printf("ok %v: %s\n", m, by)
		}
		if by == "" {
			missed[m.file]++
		}
	}
	var made, survived int
	for _, file := range slices.Sorted(maps.Keys(broken)) {
		fmt.Printf("%s: %d broken, %d not noticed\n", file, broken[file], missed[file])
		made, survived = made+broken[file], survived+missed[file]
	}
	fmt.Printf("in all: %d broken, %d not noticed\n", made, survived)
	return nil
}

// notice returns the first test that notices m, and whether one reaches it.
func notice(m mutant, suites map[string]*suite, tmp string) (by string, reached bool, err error) {
	dirs := []string{filepath.Dir(m.file), ".", "scenario"}
	switch {
	case dirs[0] == ".":
		dirs = dirs[1:]
	case *own || m.text != "":
		dirs = dirs[:1]
	}
	for _, dir := range dirs {
		s := suites[dir]
		if err := s.prepare(tmp); err != nil {
			return "", false, err
		}
		tests, took := s.reaching(m)
		if len(tests) == 0 {
			continue
		}
		reached = true
		if m.text != "" {
			s = &suite{dir: dir, replaced: map[string]string{m.file: m.text}, tests: s.tests}
			if s.build(tmp) != nil {
				return "the compiler", true, nil
			}
		}
		if by := s.fails(tests, m.id, 5*took+10*time.Second); by != "" {
			return by, true, nil
		}
	}
	return "", reached, nil
}

// overlay writes what go's -overlay reads.
func overlay(replaced map[string]string, tmp string) (string, error) {
	paths := make(map[string]string)
	for file, text := range replaced {
		f, err := os.CreateTemp(tmp, "*.go")
		if err != nil {
			return "", err
		}
		if _, err := f.WriteString(text); err != nil {
			return "", err
		}
		if err := f.Close(); err != nil {
			return "", err
		}
		abs, err := filepath.Abs(file)
		if err != nil {
			return "", err
		}
		paths[abs] = f.Name()
	}
	data, err := json.Marshal(map[string]any{"Replace": paths})
	if err != nil {
		return "", err
	}
	name := filepath.Join(tmp, "overlay.json")
	return name, os.WriteFile(name, data, 0o600)
}

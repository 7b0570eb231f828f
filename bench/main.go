// Command bench does the same work with staple and its peers, in one run, and
// prints medians and ratios. It is a module of its own, outside of go.work, as
// the peers require a hundred modules:
//
//	cd bench && GOWORK=off go run . -md ../docs/benchmarks.md
//
// Each measurement is made in a process of its own, so that no peer's heap or
// goroutines are in another's way, and the subjects take turns, so that a noisy
// moment is not one subject's.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"strings"
)

func main() {
	log.SetFlags(0)
	runs := flag.Int("runs", 5, "how often each measurement is made")
	only := flag.String("only", "", "measure what has this in its name")
	md := flag.String("md", "", "file to write the tables to, in Markdown")
	child := flag.String("child", "", "measure this, as subject:measurement, and print figures; used by the program itself")
	flag.Parse()
	if *child != "" {
		if err := serve(*child); err != nil {
			log.Fatal(err)
		}
		return
	}
	if err := run(*runs, *only, *md); err != nil {
		log.Fatal(err)
	}
}

// serve is the child: it prints its figures as JSON.
func serve(what string) error {
	name, of, _ := strings.Cut(what, ":")
	for _, sub := range subjects {
		for _, m := range measurements {
			if sub.name == name && m.name == of {
				figs, err := measure(sub, m)
				if err != nil {
					return err
				}
				return json.NewEncoder(os.Stdout).Encode(figs)
			}
		}
	}
	return fmt.Errorf("no measurement %q", what)
}

// run makes all measurements and prints what came of them.
func run(runs int, only, md string) error {
	r := make(results)
	for i := range runs {
		for _, m := range measurements {
			if !strings.Contains(m.name, only) {
				continue
			}
			for _, sub := range subjects {
				if m.n > sub.most {
					continue
				}
				log.Printf("run %d of %d: %s: %s", i+1, runs, m.name, sub.name)
				figs, err := spawn(sub, m)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", m.name, sub.name, err)
				}
				r.add(m, sub, figs)
			}
		}
	}
	out := io.Writer(os.Stdout)
	if md != "" {
		f, err := os.Create(md)
		if err != nil {
			return err
		}
		defer f.Close()
		out = io.MultiWriter(out, f)
	}
	return r.write(out, runs, os.Args[1:])
}

// spawn measures in a process of its own.
func spawn(sub subject, m measurement) (figures, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-child", sub.name+":"+m.name)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, said.String())
	}
	var figs figures
	return figs, json.Unmarshal(out, &figs)
}

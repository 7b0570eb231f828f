package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// results are the figures of all runs, by measurement, subject and name.
type results map[string][]float64

func keyOf(m measurement, sub subject, name string) string {
	return m.name + "|" + sub.name + "|" + name
}

func (r results) add(m measurement, sub subject, figs figures) {
	for name, v := range figs {
		k := keyOf(m, sub, name)
		r[k] = append(r[k], v)
	}
}

// median returns the middle value, and the least and the most.
func (r results) median(m measurement, sub subject, name string) (lo, mid, hi float64, ok bool) {
	v := slices.Sorted(slices.Values(r[keyOf(m, sub, name)]))
	if len(v) == 0 {
		return 0, 0, 0, false
	}
	return v[0], v[len(v)/2], v[len(v)-1], true
}

// A table shows one figure: who has the least of it, or the most, is best.
type table struct {
	measurement, figure string
	title, unit         string
	most                bool // more is better
}

var tables = []table{
	{"get/1", "serial ns", "GetCertificate, 1 certificate", "ns", false},
	{"get/1", "parallel ns", "the same, on all processors", "ns", false},
	{"get/1", "allocs", "the same, allocations", "", false},
	{"get/10000", "serial ns", "GetCertificate, 10,000 certificates at random", "ns", false},
	{"get/10000", "parallel ns", "the same, on all processors", "ns", false},
	{"get/10000", "allocs", "the same, allocations", "", false},
	{"get/10000", "unknown ns", "the same, for a name that nobody has", "ns", false},
	{"get/100000", "serial ns", "GetCertificate, 100,000 certificates at random", "ns", false},
	{"get/100000", "parallel ns", "the same, on all processors", "ns", false},
	{"get/10000", "heap B/cert", "heap for each of 10,000 certificates, beyond certificate and response", "B", false},
	{"get/100000", "heap B/cert", "the same, of 100,000", "B", false},
	{"handshake", "TLS 1.3", "full TLS 1.3 handshakes, by the rate of the floor's in turns with them", "", true},
	{"handshake", "TLS 1.2", "the same, TLS 1.2", "", true},
	{"herd", "stapled %", "10,000 handshakes at once, before the first response: stapled", "%", true},
	{"herd", "requests", "the same: requests", "", false},
	{"herd", "start ms", "the same: how long the start blocks", "ms", false},
	{"herd", "all ms", "the same: until the last one is through", "ms", false},
	{"warm-up", "s", "1,000 certificates, a responder that takes 20 ms", "s", false},
}

// write writes a table of tables: medians, and ratios to staple's.
func (r results) write(out io.Writer, runs int, args []string) error {
	how, better := fmt.Sprintf("%d runs in turn, medians", runs), "by more than the spread of its runs"
	if runs == 1 {
		how, better = "one run", "in this one run, which does not tell how far runs differ"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# staple beside its peers\n\nWritten by `bench`, on %s, with `go run . %s`: %s, and how many times\nstaple's figure that is. %s, %d processors (%s).\n\n",
		time.Now().UTC().Format("2006-01-02"), strings.Join(args, " "), how, runtime.Version(), runtime.NumCPU(), processor())
	b.WriteString("| |")
	for _, sub := range subjects {
		fmt.Fprintf(&b, " %s |", sub.name)
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --- |", len(subjects)) + "\n")
	var where []string
	for _, t := range tables {
		row, note := r.row(t)
		b.WriteString(row)
		where = append(where, note...)
	}
	fmt.Fprintf(&b, "\nWhere a peer is better than staple %s:\n\n", better)
	for _, note := range where {
		b.WriteString("- " + note + "\n")
	}
	if len(where) == 0 {
		b.WriteString("- nowhere\n")
	}
	b.WriteString("\nWhat each of them is, as its documentation says to use it:\n\n")
	for _, sub := range subjects {
		fmt.Fprintf(&b, "- %s\n", strings.TrimSpace(sub.name+" "+sub.version)+": "+sub.how)
	}
	b.WriteString(notes)
	_, err := io.WriteString(out, b.String())
	return err
}

const notes = `
Certificates are P-256 and share a key; the responder is net/http's on loopback, in the same process, and signs each
response once. A dash is what a subject can't do, or is not asked to: nats-server has one certificate, Traefik asks for
the responses of 100,000 one after the other, which takes minutes. Of the memory that Traefik takes a part is the
certificate itself, which it parses from PEM. In the row of 10,000 handshakes at once, certmagic and nats-server start
only when they have the response: nothing waits later, and the start takes as long as the responder. Traefik starts at
once; handshakes before its first answer carry no staple. At random the caches of the processor miss, once for each
thing that is read; the floor reads nothing of what it returns. Where several certificates are listed, staple asks
SupportsCertificate of the one that it returns, as crypto/tls does and Traefik doesn't.
`

// row returns one line of the table, and where a peer is better.
func (r results) row(t table) (row string, better []string) {
	i := slices.IndexFunc(measurements, func(m measurement) bool { return m.name == t.measurement })
	m := measurements[i]
	us := subjects[slices.IndexFunc(subjects, func(s subject) bool { return s.name == "staple" })]
	lo, ours, hi, ok := r.median(m, us, t.figure)
	row = "| " + t.title + " |"
	for _, sub := range subjects {
		l, mid, h, has := r.median(m, sub, t.figure)
		if !has {
			row += " – |"
			continue
		}
		figure := func(v float64) string { return strings.TrimSpace(number(v) + " " + t.unit) }
		row += " " + figure(mid)
		if ok && ours != 0 && sub.name != us.name {
			row += fmt.Sprintf(" (%s×)", number(mid/ours))
		}
		row += " |"
		if peer := sub.version != ""; ok && peer && (t.most && l > hi || !t.most && h < lo) {
			better = append(better, fmt.Sprintf("%s, %s: %s, staple %s", sub.name, t.title, figure(mid), figure(ours)))
		}
	}
	return row + "\n", better
}

// number writes v with as many digits as it deserves.
func number(v float64) string {
	switch {
	case v >= 100 || v == float64(int(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// processor returns the processor's name, where the system tells it.
func processor() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

package clients_test

import (
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const clientsFile = "../../docs/clients.md"

const intro = `# What clients do with staples

Real clients connected to a server that staples with this library, with a CA and a responder on one machine. A test repeats
this and fails if a client does anything else than written here; versions may differ from those at the end. To update the file:

    cd e2e && GOWORK=off UPDATE_CLIENTS=1 go test ./clients

## The clients

| client | called as | asks for a staple | asks the responder itself | alert when it refuses |
| --- | --- | --- | --- | --- |
`

const staples = `
The staples of the next two tables:

- **good, SHA-1** and **good, SHA-256**: what the responder says about a good certificate, with this hash in the CertID.
  SHA-1 is the default of staple, the other is ` + "`staple.WithHash(crypto.SHA256)`" + `.
- **revoked**: the certificate is revoked, and ` + "`staple.WithStapleRevoked(true)`" + ` has that stapled.
- **none**: nothing, because the responder answers tryLater, also to clients.
- **expired**: a good response that expired a day ago; the responder answers tryLater. staple never sends one: the test puts
  it in by hand, to see which clients check.

A cell is true of TLS 1.2 and TLS 1.3; if they differ it names both.
`

// A key is a cell of the tables.
type key struct {
	client  string
	shape   shape
	must    bool
	version uint16
}

// A habit is what a client does in all cells alike.
type habit struct {
	asks    bool     // for a staple
	fetches []string // what is stapled when it asks the certificate's responder
	alerts  []string // that it refuses with
}

// matrix is all that was seen.
type matrix struct {
	cells  map[key]string
	habits map[string]habit
}

// compare has the file written, if it is to be, and compared.
func (m *matrix) compare(t *testing.T) {
	file, err := os.ReadFile(clientsFile)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(file), "\r\n", "\n")
	got := m.document(refusedSection(text))
	if os.Getenv("UPDATE_CLIENTS") != "" {
		if t.Failed() {
			t.Fatalf("%s is not written, since the test failed", clientsFile)
		}
		text = got + versions(t)
		if err := os.WriteFile(clientsFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, _, _ := strings.Cut(text, versionsTitle)
	if d := firstDifference(got, want); d != "" {
		t.Errorf("%s is not what was seen; %s", clientsFile, d)
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) {
			return fmt.Sprintf("%d lines, want %d", len(g), len(w))
		}
		if g[i] != w[i] {
			return fmt.Sprintf("line %d:\ngot  %s\nwant %s", i+1, g[i], w[i])
		}
	}
	return ""
}

// document is all of the file but the versions. refused is the section of another test.
func (m *matrix) document(refused string) string {
	var out strings.Builder
	out.WriteString(intro)
	yes := map[bool]string{true: "yes", false: "no"}
	for _, c := range clients {
		h := m.habits[c.name]
		fetches, alerts := "no", "none"
		if len(h.fetches) > 0 {
			fetches = "when stapled " + strings.Join(h.fetches, ", ")
		}
		if len(h.alerts) > 0 {
			slices.Sort(h.alerts)
			alerts = strings.Join(h.alerts, ", ")
		} else if !m.refusesAny(c.name) {
			alerts = "never refuses"
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s |\n", c.name, c.how, yes[h.asks], fetches, alerts)
	}
	out.WriteString(staples)
	m.table(&out, "A certificate without Must-Staple", false)
	m.table(&out, "A Must-Staple certificate", true)
	m.conclude(&out)
	out.WriteString(refused)
	out.WriteString(others)
	return out.String()
}

// refusedSection returns the section of the file that a test in scenario holds to what is
// true, TestWhatSomeClientsRefuse. It is kept as it is.
func refusedSection(file string) string {
	_, section, found := strings.Cut(file, refusedTitle)
	section, _, _ = strings.Cut(section, "\n## ")
	if !found {
		return ""
	}
	return refusedTitle + section
}

func (m *matrix) table(out *strings.Builder, title string, must bool) {
	fmt.Fprintf(out, "\n## %s\n\n| client |", title)
	for _, s := range shapes {
		fmt.Fprintf(out, " %v |", s)
	}
	out.WriteString("\n| --- |" + strings.Repeat(" --- |", len(shapes)) + "\n")
	for _, c := range clients {
		fmt.Fprintf(out, "| %s |", c.name)
		for _, s := range shapes {
			fmt.Fprintf(out, " %s |", m.cell(c.name, s, must))
		}
		out.WriteString("\n")
	}
}

// cell is what a client does, in both versions of TLS.
func (m *matrix) cell(client string, s shape, must bool) string {
	old, now := m.cells[key{client, s, must, tls.VersionTLS12}], m.cells[key{client, s, must, tls.VersionTLS13}]
	if old != now {
		return "1.2 " + old + "; 1.3 " + now
	}
	return now
}

// refuses says whether a client refuses, in any version of TLS.
func (m *matrix) refuses(client string, s shape, must bool) bool {
	return !accepts(m.cells[key{client, s, must, tls.VersionTLS12}]) || !accepts(m.cells[key{client, s, must, tls.VersionTLS13}])
}

func (m *matrix) refusesAny(client string) bool {
	return slices.ContainsFunc(shapes, func(s shape) bool { return m.refuses(client, s, false) || m.refuses(client, s, true) })
}

// who lists the clients of which something is true.
func who(is func(client string) bool) string {
	var names []string
	for _, c := range clients {
		if is(c.name) {
			names = append(names, c.name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

const refusedTitle = "\n## What some clients refuse\n"

const versionsTitle = "\n## Versions\n"

// versions are those of Debian's packages, which is where the clients are from.
func versions(t *testing.T) string {
	var pkgs []string
	for _, c := range clients {
		if c.pkg != "" && !slices.Contains(pkgs, c.pkg) {
			pkgs = append(pkgs, c.pkg)
		}
	}
	release, err := os.ReadFile("/etc/debian_version")
	if err != nil {
		t.Fatal(err)
	}
	s := versionsTitle + "\n" + runtime.Version() + ", and of Debian " + strings.TrimSpace(string(release)) + ":\n\n"
	for _, pkg := range append(pkgs, "libgnutls30", "libcurl3-gnutls", "libnss3") {
		v, err := exec.CommandContext(t.Context(), "dpkg-query", "-W", "-f", "${Version}", pkg).Output()
		if err != nil {
			t.Fatalf("%s: %v", pkg, err)
		}
		s += fmt.Sprintf("- %s %s\n", pkg, v)
	}
	return s
}

package staple_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What README.md shows is compiled, and run where that needs no CA: each block
// of Go in it stands, line by line, in the body of an Example.
func TestREADME(t *testing.T) {
	if _, err := os.Stat("examples/autocert"); err != nil { // a module of its own
		t.Skip("not a clone of the repository: examples are missing")
	}
	data, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(data)
	if got := strings.Count(readme, "\n"); got > 170 {
		t.Errorf("README.md has %d lines, want at most 170", got)
	}
	for _, command := range []string{"go run ./examples/quickstart\n", "go test work\n"} {
		if !strings.Contains(readme, command) {
			t.Errorf("README.md lacks the command %q", command)
		}
	}
	examples := exampleBodies(t)
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```").FindAllStringSubmatch(readme, -1)
	if len(blocks) < 4 {
		t.Errorf("README.md has %d blocks of Go, want 4 at least", len(blocks))
	}
	for _, block := range blocks {
		if want := plainLines(block[1]); !strings.Contains(examples, want) {
			t.Errorf("in no Example:\n%s", want)
		}
	}
}

// The test that ocsptest's documentation shows is one that runs.
func TestDocumentedTest(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("ocsptest", "doc.go"))
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(filepath.Join("ocsptest", "outage_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?ms)^//\tfunc Test.*?^//\t}$`).FindString(strings.ReplaceAll(string(doc), "\r\n", "\n"))
	shown = regexp.MustCompile(`(?m)^//`).ReplaceAllString(shown, "")
	if shown == "" || !strings.Contains(plainLines(string(src)), plainLines(shown)) {
		t.Errorf("not in outage_test.go:\n%s", shown)
	}
}

// exampleBodies returns the bodies of all Examples of the repository.
func exampleBodies(t *testing.T) string {
	t.Helper()
	var bodies strings.Builder
	for _, pattern := range []string{"*_test.go", "ocsptest/*_test.go", "examples/*/*_test.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, decl := range file.Decls {
				f, ok := decl.(*ast.FuncDecl)
				if ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Example") {
					body := src[fset.Position(f.Body.Lbrace).Offset+1 : fset.Position(f.Body.Rbrace).Offset]
					bodies.WriteString(plainLines(string(body)))
				}
			}
		}
	}
	return bodies.String()
}

// plainLines drops indentation, empty lines and what gofmt aligns.
func plainLines(s string) string {
	out := "\n"
	for line := range strings.Lines(s) {
		if words := strings.Fields(line); len(words) > 0 {
			out += strings.Join(words, " ") + "\n"
		}
	}
	return out
}

// logged finds what is logged above info: a call of the root with a message, a level and
// a message that internal/notices returns, and what is said of the user's code.
var logged = regexp.MustCompile("(?:s\\.log\\(|return (?:Line\\{)?)(?:slog\\.LevelWarn|slog\\.LevelError|warning|(?:notices\\.)?Once\\(.*?\\)), [\"`]([^\"`]+)" +
	"|s\\.complain\\(.*?\"([A-Za-z ]+[;,][^\"]*)\"")

// Each line that an operator may find in the log is explained in
// docs/operations.md, by its beginning, and no other.
func TestOperations(t *testing.T) {
	doc := readDoc(t, "docs/operations.md")
	var rows []string
	_, table, _ := strings.Cut(doc, "| line begins with |")
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \| (?:warn|error) \|`).FindAllStringSubmatch(table, -1) {
		rows = append(rows, row[1])
	}
	var lines []string
	var source strings.Builder
	for _, name := range sources(t) {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(src)
		for _, m := range logged.FindAllStringSubmatch(string(src), -1) {
			lines = append(lines, strings.Join(m[1:], ""))
		}
	}
	if len(lines) < 14 {
		t.Errorf("found %d lines in the source: %q", len(lines), lines)
	}
	for _, line := range lines {
		if !slices.ContainsFunc(rows, func(row string) bool { return strings.HasPrefix(line, row) }) {
			t.Errorf("not explained: %q", line)
		}
	}
	for _, key := range attributes(t, doc) {
		if !strings.Contains(source.String(), `"`+key+`"`) {
			t.Errorf("explained, and no attribute: %q", key)
		}
	}
	for _, row := range rows {
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, row) }) {
			t.Errorf("explained, and not logged: %q", row)
		}
	}
}

// attributes returns those of log lines that docs/operations.md explains.
func attributes(t *testing.T, doc string) (keys []string) {
	t.Helper()
	_, table, _ := strings.Cut(doc, "| attribute | meaning |")
	table, _, _ = strings.Cut(table, "\n\n")
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(firstCells(table), -1) {
		keys = append(keys, m[1])
	}
	if len(keys) < 10 {
		t.Errorf("found %d attributes: %q", len(keys), keys)
	}
	return keys
}

// firstCells returns the first column of a table.
func firstCells(table string) string {
	var cells []string
	for line := range strings.Lines(table) {
		if parts := strings.SplitN(line, "|", 3); len(parts) == 3 {
			cells = append(cells, parts[1])
		}
	}
	return strings.Join(cells, "\n")
}

// sources returns the files that have what is logged: of the package and of
// internal/notices, without tests.
func sources(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	inner, err := filepath.Glob(filepath.Join("internal", "notices", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(append(names, inner...), func(name string) bool { return strings.HasSuffix(name, "_test.go") })
}

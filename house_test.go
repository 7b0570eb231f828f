package staple_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ocspstaple/staple"

// room is what an internal package may import of this module, and what of all
// else it must not use, by itself or through the former: a package and those
// below it, or a name in one.
type room struct{ may, never []string }

// rooms is the table of packages in the design. Arrows point down only.
var rooms = map[string]room{
	"der":        {},
	"certinfo":   {may: []string{"der"}},
	"errtext":    {may: []string{"certinfo"}, never: []string{"log"}},
	"ocspresp":   {may: []string{"certinfo", "der", "errtext"}, never: []string{"net/http", "crypto/tls", "log"}},
	"ocsphttp":   {},
	"issuers":    {may: []string{"certinfo", "errtext", "ocspresp", "ocsphttp", "foreign"}, never: []string{"log"}},
	"held":       {may: []string{"errtext", "ocspresp", "ocsphttp", "records", "schedule"}, never: []string{"log"}},
	"exchange":   {may: []string{"held", "ocspresp", "ocsphttp", "schedule"}, never: []string{"log"}},
	"schedule":   {never: []string{"context", "net/http", "crypto", "log", "time.Now"}},
	"records":    {may: []string{"errtext", "foreign"}},
	"foreign":    {},
	"leafindex":  {},
	"tally":      {},
	"tlschoice":  {},
	"directions": {may: []string{"certinfo", "foreign", "schedule"}, never: []string{"net/http", "log", "time.Now"}},
	"waiting":    {may: []string{"schedule"}, never: []string{"net/http", "crypto", "log", "time.Now"}},
	"notices":    {may: []string{"certinfo", "ocspresp"}, never: []string{"net/http", "crypto/tls", "time.Now"}},
}

// Each internal package can be read, tested and fuzzed alone.
func TestHouse(t *testing.T) {
	uses, faults, err := inspect("internal")
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range faults {
		t.Error(fault)
	}
	for name := range rooms {
		if len(uses[name]) == 0 {
			t.Errorf("%s: not found", name)
		}
	}
}

// inspect reads the packages below dir. It returns what the code of each uses,
// and what breaks the rules of rooms.
func inspect(dir string) (uses map[string][]string, faults []string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.go"))
	if err != nil {
		return nil, nil, err
	}
	deeper, err := filepath.Glob(filepath.Join(dir, "*", "*", "*.go"))
	if err != nil {
		return nil, nil, err
	}
	uses = make(map[string][]string)
	for _, file := range append(files, deeper...) {
		name, err := filepath.Rel(dir, filepath.Dir(file))
		if err != nil {
			return nil, nil, err
		}
		imports, names, err := usedBy(file)
		if err != nil {
			return nil, nil, err
		}
		name = filepath.ToSlash(name)
		test := strings.HasSuffix(file, "_test.go")
		for _, path := range imports {
			if rest, ok := strings.CutPrefix(path, module); ok && !mayImport(name, rest, test) {
				faults = append(faults, fmt.Sprintf("%s imports %s", file, path))
			}
		}
		if !test {
			uses[name] = slices.Concat(uses[name], imports, names)
		}
	}
	for name := range uses {
		if _, ok := rooms[name]; !ok {
			faults = append(faults, fmt.Sprintf("%s is not in the table", name))
		}
		for _, never := range rooms[name].never {
			if by := user(uses, name, never); by != "" {
				faults = append(faults, fmt.Sprintf("%s uses %s, in %s", name, never, by))
			}
		}
	}
	slices.Sort(faults)
	return uses, faults, nil
}

// mayImport reports whether the code of a package, or a test of it, may import
// what has a path in this module. The root is "".
func mayImport(name, path string, test bool) bool {
	internal, ok := strings.CutPrefix(path, "/internal/")
	return ok && (slices.Contains(rooms[name].may, internal) || test && internal == name) || test && path == "/ocsptest"
}

// user returns which package uses what the one of that name must not: itself, or
// one that it imports; or "".
func user(uses map[string][]string, name, never string) string {
	for _, use := range uses[name] {
		if use == never || strings.HasPrefix(use, never+"/") {
			return name
		}
		if internal, ok := strings.CutPrefix(use, module+"/internal/"); ok {
			if by := user(uses, internal, never); by != "" {
				return by
			}
		}
	}
	return ""
}

// usedBy returns what a file imports, and the names in those packages that it
// uses, such as time.Now.
func usedBy(file string) (imports, names []string, err error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, nil, err
	}
	local := make(map[string]string) // how the file names a package
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, nil, err
		}
		imports = append(imports, path)
		as := path[strings.LastIndexByte(path, '/')+1:]
		if spec.Name != nil {
			as = spec.Name.Name
		}
		local[as] = path
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && local[x.Name] != "" {
				names = append(names, local[x.Name]+"."+sel.Sel.Name)
			}
		}
		return true
	})
	return imports, names, nil
}

// The inspection finds what it is there to find.
func TestInspect(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string // what each imports and uses
		want  string            // in the one fault; empty: none
	}{
		{"nothing", map[string]string{}, ""},
		{"the root", map[string]string{"der/a.go": `import "` + module + `"`}, "der/a.go imports " + module},
		{"the root, in a test", map[string]string{"der/a_test.go": `import _ "` + module + `"`}, "a_test.go imports " + module},
		{"the fake responder", map[string]string{"der/a.go": `import "` + module + `/ocsptest"`}, "imports " + module + "/ocsptest"},
		{"the fake responder, in a test", map[string]string{"der/a_test.go": `import "` + module + `/ocsptest"`}, ""},
		{"itself, in a test", map[string]string{"der/a_test.go": `import "` + module + `/internal/der"`}, ""},
		{"down", map[string]string{"certinfo/a.go": `import "` + module + `/internal/der"`, "der/a.go": ""}, ""},
		{"up", map[string]string{"der/a.go": `import "` + module + `/internal/certinfo"`, "certinfo/a.go": ""}, "der/a.go imports " + module + "/internal/certinfo"},
		{"aside", map[string]string{"tlschoice/a.go": `import "` + module + `/internal/schedule"`}, "imports " + module + "/internal/schedule"},
		{"what is forbidden", map[string]string{"ocspresp/a.go": `import "net/http"`}, "ocspresp uses net/http"},
		{"what is below that", map[string]string{"ocspresp/a.go": `import "log/slog"`}, "ocspresp uses log"},
		{"what is beside that", map[string]string{"ocspresp/a.go": `import ("crypto/x509"; "net/httpx")`}, ""},
		{"through another", map[string]string{"ocspresp/a.go": `import "` + module + `/internal/certinfo"`, "certinfo/a.go": `import "crypto/tls"`}, "ocspresp uses crypto/tls, in certinfo"},
		{"in a test", map[string]string{"ocspresp/a.go": "", "ocspresp/a_test.go": `import "crypto/tls"`}, ""},
		{"a name", map[string]string{"schedule/a.go": `import "time"; var now = time.Now()`}, "schedule uses time.Now"},
		{"a name by another", map[string]string{"schedule/a.go": `import clock "time"; var now = clock.Now`}, "schedule uses time.Now"},
		{"another name", map[string]string{"schedule/a.go": `import "time"; var day = 24 * time.Hour`}, ""},
		{"an unknown package", map[string]string{"cellar/a.go": ""}, "cellar is not in the table"},
		{"an unknown one in a known one", map[string]string{"der/cellar/a.go": ""}, "der/cellar is not in the table"},
	} {
		dir := t.TempDir()
		for file, code := range tt.files {
			file = filepath.Join(dir, filepath.FromSlash(file))
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte("package p\n"+code), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, faults, err := inspect(dir)
		if got := filepath.ToSlash(strings.Join(faults, "; ")); err != nil || len(faults) > 1 || (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

// Each test that docs/security.md names for a claim is there.
func TestSecurityNamesTests(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("redisstore"); err != nil { // a module of its own
		t.Skip("not a clone of the repository: modules are missing")
	}
	var code strings.Builder
	err = filepath.WalkDir(".", func(path string, _ os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			src, err := os.ReadFile(path)
			code.Write(src)
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`\b(?:Test|Fuzz|Example)[A-Z]\w+`).FindAllString(string(doc), -1)
	if len(names) < 50 {
		t.Errorf("docs/security.md names %d tests, want one for each claim", len(names))
	}
	for _, name := range names {
		if !strings.Contains(code.String(), "\nfunc "+name+"(") {
			t.Errorf("docs/security.md names %s, which is not there", name)
		}
	}
}

package schedule

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// planted are faults that TestModel has to find: each replaces a text that stands
// in its file once.
var planted = []struct{ what, file, old, new string }{
	{"places of a responder that proves something stay among the unproven", "places.go",
		"p.unproven -= r.used", ""},
	{"a host may have any number of requests", "places.go",
		"if h.used < p.limits.Host {\n\t\t\tkey = h", "{\n\t\t\tkey = h"},
	{"who stood by at two responders still does so at one", "schedule.go",
		"for _, r := range it.responders() {\n\t\t\tr.standing.set(t, Never)", "for _, r := range it.responders()[:1] {\n\t\t\tr.standing.set(t, Never)"},
	{"a probe that asked nobody is under way for ever", "probe.go",
		"r := at.probe\n\tat.probe, r.probe = nil, nil", "r := at.probe\n\tat.probe = nil"},
	{"a certificate that fails again counts as another", "probe.go",
		" && !slices.Contains(r.failed, t)", ""},
	{"who stood by twice counts as tried", "item.go",
		"case it.tried:", "case it.tried || it.failures > 1:"},
	{"probes of a host are not spaced", "probe.go",
		"; h.crowded() {", "; false {"},
	{"a late proof counts for nothing", "attempt.go",
		"s.recovered(t, o.Held)\n\tcase mine", "\n\tcase mine"},
	{"the second responder is never asked beside the first", "attempt.go",
		"!r.failing && s.places.room(r)", "false"},
	{"who goes to another queue is last there", "attempt.go",
		"if it.at.deadline == 0 {", "{"},
	{"what was due stays due when the clock is set back", "run.go",
		"s.move(t, it.phase, due-back)", "_ = due"},
	{"all that was overslept is due at once", "run.go",
		"s.now-due >= overslept", "false"},
	{"pauses are an eighth of how long it has failed", "pause.go",
		"lasted/16", "lasted/8"},
	{"the heap sinks to the greater child", "heap.go",
		"h.nodes[right].key < h.nodes[down].key", "h.nodes[right].key > h.nodes[down].key"},
}

// TestModel finds each of the planted faults. That takes a build for each, so it is
// done where STAPLE_LONG is set; the first one always.
func TestPlantedFaults(t *testing.T) {
	if testing.Short() {
		t.Log("not with -short")
		return
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for i, fault := range planted {
		if i > 0 && os.Getenv("STAPLE_LONG") == "" {
			break
		}
		t.Run(strings.ReplaceAll(fault.what, " ", "_"), func(t *testing.T) {
			original := filepath.Join(dir, fault.file)
			text, err := os.ReadFile(original)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), fault.old); n != 1 {
				t.Fatalf("%q stands %d times in %s, want once", fault.old, n, fault.file)
			}
			broken, overlay := filepath.Join(t.TempDir(), fault.file), filepath.Join(t.TempDir(), "overlay.json")
			replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: broken}})
			if err != nil {
				t.Fatal(err)
			}
			write(t, broken, strings.Replace(string(text), fault.old, fault.new, 1))
			write(t, overlay, string(replace))
			cmd := exec.Command("go", "test", "-count=1", "-timeout=3m", "-overlay="+overlay, "-run=^TestModel$", ".")
			cmd.Env = append(os.Environ(), "STAPLE_LONG=") // a few seeds have to be enough
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestModel") && !strings.Contains(string(out), "panic: ") {
				t.Errorf("not found: %v\n%.2000s", err, out)
			}
		})
	}
}

func write(t *testing.T, name, text string) {
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

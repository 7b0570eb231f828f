package clients_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ocspstaple/staple/scenario/testkit"
)

// TestMain fails the run if a goroutine of staple outlives the tests.
func TestMain(m *testing.M) { testkit.Main(m) }

// Each client visits a server for each row. What has to hold is checked by the
// way; all that they did is compared with what is written in docs/clients.md.
func TestClients(t *testing.T) {
	w := newWorld(t)
	m := matrix{cells: make(map[key]string), habits: make(map[string]habit)}
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			if c.tool != "" {
				testkit.Program(t, c.tool)
			}
			m.habits[c.name] = c.visit(t, w, m.cells)
		})
	}
	if len(m.habits) < len(clients) {
		t.Logf("%s is not compared, since only %d of %d clients were tried", clientsFile, len(m.habits), len(clients))
		if os.Getenv("UPDATE_CLIENTS") != "" {
			t.Errorf("and not written")
		}
		return
	}
	m.compare(t)
}

// visit makes the client visit all servers, and checks what has to hold.
func (c client) visit(t *testing.T, w *world, cells map[key]string) (h habit) {
	vs := make([]*visit, len(w.rows))
	for n, r := range w.rows {
		vs[n] = r.open(t)
	}
	w.ca.Responder.ResetCounts()
	c.run(t, w, vs)
	for n, v := range vs {
		v.settle(t)
		cells[key{c.name, v.shape, v.must, v.version}] = v.said
		if asks := v.asked(t); n == 0 {
			h.asks = asks
		} else if asks != h.asks {
			t.Errorf("%s: asks for a staple: %v; elsewhere: %v", v, asks, h.asks)
		}
		if v.alert != "" && !slices.Contains(h.alerts, v.alert) {
			h.alerts = append(h.alerts, v.alert)
		}
		c.check(t, v)
	}
	for _, s := range shapes {
		if slices.ContainsFunc(vs, func(v *visit) bool { return v.shape == s && w.ca.Responder.Count("", v.cert) > 0 }) {
			h.fetches = append(h.fetches, s.String())
		}
	}
	return h
}

// check is for what must not change with the table.
func (c client) check(t *testing.T, v *visit) {
	refuses := c.refuses
	if v.must {
		refuses = c.refusesMust
	}
	if v.shape == goodSHA1 && !accepts(v.said) {
		t.Errorf("%s: %s, and has to accept", v, v.said)
	}
	if slices.Contains(refuses, v.shape) && accepts(v.said) {
		t.Errorf("%s: %s, and has to refuse", v, v.said)
	}
}

func accepts(said string) bool { return strings.HasPrefix(said, "accepts") }

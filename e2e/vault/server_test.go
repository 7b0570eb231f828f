package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/sdk/logical"
)

// A server answers over HTTP as a Vault server does to callers without a token,
// which is what clients of OCSP are.
type server struct {
	*httptest.Server

	mu     sync.Mutex
	mounts map[string]*mount // by path, with its slash
	asked  map[string]int    // OCSP requests that reached a mount, by method and status
}

// A mount is Vault's PKI secrets engine below a path.
type mount struct {
	path    string
	url     string // of the mount, without a slash at its end
	backend logical.Backend
	storage logical.Storage
}

// newServer returns one that listens on loopback until the test ends.
func newServer(t *testing.T) *server { return start(t, (*httptest.Server).Start) }

// newTLSServer is newServer for https, as Vault listens in earnest.
func newTLSServer(t *testing.T) *server { return start(t, (*httptest.Server).StartTLS) }

func start(t *testing.T, listen func(*httptest.Server)) *server {
	v := &server{mounts: make(map[string]*mount), asked: make(map[string]int)}
	v.Server = httptest.NewUnstartedServer(v)
	v.Config.ErrorLog = log.New(io.Discard, "", 0)
	listen(v.Server)
	t.Cleanup(v.Close)
	return v
}

// mount enables the engine at path, which ends with a slash, as `vault secrets
// enable pki` does.
func (v *server) mount(t *testing.T, path string) *mount {
	t.Helper()
	config := logical.TestBackendConfig()
	config.Logger = hclog.NewNullLogger()
	config.StorageView = &logical.InmemStorage{}
	backend, err := pki.Factory(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { backend.Cleanup(context.WithoutCancel(t.Context())) })
	if err := backend.Initialize(t.Context(), &logical.InitializationRequest{Storage: config.StorageView}); err != nil {
		t.Fatal(err)
	}
	m := &mount{path: path, url: v.URL + "/v1/" + strings.TrimSuffix(path, "/"), backend: backend, storage: config.StorageView}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mounts[path] = m
	return m
}

// ServeHTTP turns an HTTP request into one of Vault's and its raw answer back.
func (v *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store") // Vault says so whatever it answers
	// Vault's go.mod says 1.21: the ServeMux of that time cleans paths after it
	// has decoded them, and takes %2F%2F for two slashes in a row.
	if clean := path.Clean(r.URL.Path); clean != r.URL.Path {
		http.Redirect(w, r, clean, http.StatusMovedPermanently)
		return
	}
	operation, ok := map[string]logical.Operation{http.MethodGet: logical.ReadOperation, http.MethodPost: logical.UpdateOperation}[r.Method]
	m, below := v.find(strings.TrimPrefix(r.URL.Path, "/v1/"))
	if !ok || m == nil {
		http.NotFound(w, r)
		return
	}
	resp, err := m.backend.HandleRequest(r.Context(), &logical.Request{
		Operation: operation, Path: below, MountPoint: m.path, Storage: m.storage, Headers: r.Header, HTTPRequest: r})
	if err != nil || resp == nil {
		http.NotFound(w, r)
		return
	}
	kind, _ := resp.Data[logical.HTTPContentType].(string)
	status, ok := resp.Data[logical.HTTPStatusCode].(int)
	body, raw := resp.Data[logical.HTTPRawBody].([]byte)
	if !ok || !raw {
		http.Error(w, "not a raw answer", http.StatusInternalServerError)
		return
	}
	if below == "ocsp" || strings.HasPrefix(below, "ocsp/") {
		v.mu.Lock()
		v.asked[fmt.Sprint(r.Method, " ", status)]++
		v.mu.Unlock()
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	w.Write(body)
}

// find returns the mount that a path belongs to, and the path below it.
func (v *server) find(path string) (*mount, string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for prefix, m := range v.mounts {
		if below, ok := strings.CutPrefix(path, prefix); ok {
			return m, below
		}
	}
	return nil, ""
}

// answers returns how many OCSP requests there were, by method and status.
func (v *server) answers() map[string]int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.asked)
}

// write is `vault write PATH DATA...`, as an operator with every right.
func (m *mount) write(t *testing.T, path string, data map[string]any) map[string]any {
	t.Helper()
	resp, err := m.backend.HandleRequest(t.Context(), &logical.Request{
		Operation: logical.UpdateOperation, Path: path, MountPoint: m.path, Storage: m.storage, Data: data})
	if err == nil && resp.IsError() {
		err = resp.Error()
	}
	if err != nil {
		t.Fatalf("vault write %s%s: %v", m.path, path, err)
	}
	if resp == nil {
		return nil
	}
	return resp.Data
}

// newRoot enables an engine with a root of its own.
func (v *server) newRoot(t *testing.T, path, keyType string) *mount {
	t.Helper()
	m := v.mount(t, path)
	m.write(t, "root/generate/internal", map[string]any{"common_name": "Root of " + path, "key_type": keyType, "ttl": "40h"})
	m.configure(t)
	return m
}

// newIntermediate enables an engine whose issuer is signed by root's.
func (v *server) newIntermediate(t *testing.T, path, keyType string, root *mount) *mount {
	t.Helper()
	m := v.mount(t, path)
	made := m.write(t, "intermediate/generate/internal", map[string]any{"common_name": "Intermediate of " + path, "key_type": keyType})
	signed := root.write(t, "root/sign-intermediate", map[string]any{"csr": made["csr"], "common_name": "Intermediate of " + path, "ttl": "30h"})
	m.write(t, "intermediate/set-signed", map[string]any{"certificate": signed["certificate"]})
	m.configure(t)
	return m
}

// configure sets the URLs of what the mount issues, by the template that serves
// each cluster of a fleet, and the role that issue uses.
func (m *mount) configure(t *testing.T) {
	t.Helper()
	m.write(t, "config/cluster", map[string]any{"path": m.url, "aia_path": m.url})
	m.write(t, "config/urls", map[string]any{"enable_templating": true,
		"ocsp_servers": "{{cluster_aia_path}}/ocsp", "issuing_certificates": "{{cluster_aia_path}}/issuer/{{issuer_id}}/der"})
	m.write(t, "roles/web", map[string]any{"allow_any_name": true, "key_type": "ec", "key_bits": 256, "ttl": "1h"})
}

// A pair is a certificate as Vault gives it out, with its issuer's behind it.
type pair struct {
	tls.Certificate
	issuer *x509.Certificate
	serial string // in Vault's words
}

// issue is `vault write PATH/issue/web common_name=HOST`.
func (m *mount) issue(t *testing.T) *pair {
	t.Helper()
	data := m.write(t, "issue/web", map[string]any{"common_name": host})
	chain := data["certificate"].(string) + "\n" + data["issuing_ca"].(string)
	cert, err := tls.X509KeyPair([]byte(chain), []byte(data["private_key"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := x509.ParseCertificate(cert.Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	return &pair{Certificate: cert, issuer: issuer, serial: data["serial_number"].(string)}
}

// issuer returns the certificate of the mount's default issuer, from where the
// certificates that it issues say that it is.
func (m *mount) issuer(t *testing.T) *x509.Certificate {
	t.Helper()
	der := body(t)(http.Get(m.url + "/issuer/default/der"))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

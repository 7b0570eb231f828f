package redisstore_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ocspstaple/staple/redisstore"
	"github.com/ocspstaple/staple/scenario/testkit"
	"github.com/redis/go-redis/v9"
)

// A node is a real redis-server on a free port of loopback.
type node struct {
	addr string
	args []string
	cmd  *exec.Cmd
}

// newNode starts a server, with more arguments than those that all have.
func newNode(t *testing.T, args ...string) *node {
	t.Helper()
	port := freePort(t)
	n := &node{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), args: append([]string{"--port", strconv.Itoa(port), "--bind", "127.0.0.1",
		"--save", "", "--appendonly", "no", "--dir", t.TempDir()}, args...)}
	t.Cleanup(n.stop)
	n.start(t, "redis-server", "valkey-server")
	return n
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// start starts the server and waits until it answers.
func (n *node) start(t *testing.T, names ...string) {
	t.Helper()
	n.cmd = exec.Command(testkit.Program(t, names...), n.args...)
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Addr: n.addr})
	defer client.Close()
	testkit.Eventually(t, 45*time.Second, "the server answers", func() bool { return client.Ping(context.Background()).Err() == nil })
}

func (n *node) stop() {
	if n.cmd != nil && n.cmd.Process != nil {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
	}
	n.cmd = nil
}

// client returns one made by this package, closed at the end of the test.
func (n *node) client(t *testing.T) redis.UniversalClient {
	return open(t, &redis.UniversalOptions{Addrs: []string{n.addr}})
}

func open(t *testing.T, opts *redis.UniversalOptions) redis.UniversalClient {
	c := redisstore.Client(opts)
	t.Cleanup(func() { c.Close() })
	return c
}

// sentinel starts one that watches n.
func sentinel(t *testing.T, n *node) *node {
	t.Helper()
	host, port, _ := strings.Cut(n.addr, ":")
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "sentinel monitor fleet %s %s 1\n", host, port), 0o600); err != nil {
		t.Fatal(err)
	}
	at := freePort(t)
	s := &node{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(at)), args: []string{conf, "--sentinel", "--port", strconv.Itoa(at), "--bind", "127.0.0.1"}}
	t.Cleanup(s.stop)
	s.start(t, "redis-server", "valkey-server")
	return s
}

// cluster starts one whose only node has all slots.
func cluster(t *testing.T) *node {
	t.Helper()
	n := newNode(t, "--cluster-enabled", "yes")
	c := redis.NewClient(&redis.Options{Addr: n.addr})
	defer c.Close()
	if err := c.ClusterAddSlotsRange(context.Background(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 45*time.Second, "the cluster is up", func() bool {
		info, err := c.ClusterInfo(context.Background()).Result()
		return err == nil && strings.Contains(info, "cluster_state:ok")
	})
	return n
}

// A server that takes from Redis what another one stored, while the responder
// is down. Its argument is Redis's address.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/ocspstaple/staple"
	"github.com/ocspstaple/staple/ocsptest"
	"github.com/ocspstaple/staple/redisstore"
	"github.com/redis/go-redis/v9"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client := redisstore.Client(&redis.UniversalOptions{Addrs: []string{os.Args[1]}})
	defer client.Close()
	ca := ocsptest.NewCA()
	cert := ca.Issue(ocsptest.Leaf{Names: []string{"www.example.com"}})

	stored := make(chan struct{})
	first := staple.New(
		staple.WithHTTPClient(ca.Responder.Client()),
		staple.WithStore(redisstore.New(client, "")),
		staple.WithEventFunc(func(ev staple.Event) {
			switch ev.Kind {
			case staple.EventStored:
				close(stored)
			case staple.EventStoreFailed:
				log.Fatal(ev.Err)
			}
		}),
	)
	if err := first.Prefetch(ctx, cert); err != nil {
		log.Fatal(err)
	}
	select {
	case <-stored:
	case <-ctx.Done():
		log.Fatal("nothing was stored")
	}
	if err := first.Close(); err != nil {
		log.Fatal(err)
	}

	ca.Responder.SetFault(ocsptest.FaultTryLater)
	second := staple.New(
		staple.WithHTTPClient(ca.Responder.Client()),
		staple.WithStore(redisstore.New(client, "")),
	)
	defer second.Close()
	if err := second.Prefetch(ctx, cert); err != nil {
		log.Fatal(err)
	}
	fmt.Println("works")
}

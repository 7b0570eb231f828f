// Package promstaple exports the state and work of a [staple.Stapler] to Prometheus.
//
//	s, metrics := promstaple.New(staple.WithStore(store))
//	defer s.Close()
//	prometheus.MustRegister(metrics)
//
// Beside it are rules that alert (alerts.yml) and a Grafana dashboard
// (dashboard.json).
//
// # Metrics
//
// Of the certificates in use ([staple.Stapler.Status]), at the time of the scrape:
//
//   - staple_certificates{state,must_staple}: how many, by [staple.State]. All
//     combinations are always there, so that 0 differs from not scraped.
//   - staple_certificates_failing{responder,reason}: those whose last attempt
//     failed, and those that none can be made for. One that is revoked has not
//     failed by that. reason is the [staple.Reason], or "no issuer", "no
//     responder" or "other".
//   - staple_response_next_update_timestamp_seconds{responder}: the earliest
//     nextUpdate of those in state good, in Unix time. A response without
//     nextUpdate counts until when it is served.
//   - staple_response_remaining_ratio{responder,must_staple}: the least share of
//     its validity that a response in state good has left, from 1 to 0. Refreshes
//     are due at 0.4 or before. A lower value alone may be harmless, because some
//     responders sign the next response late, or give a thisUpdate long past;
//     together with failing certificates it is a problem.
//   - staple_oldest_success_timestamp_seconds{responder}: when a responder last
//     gave, or confirmed, a response for the certificate for which that is
//     longest ago, in Unix time.
//
// Counters, from 0 at [New]:
//
//   - staple_handshakes_total{state}: calls of hooks and of Staple by the state of
//     what was served, without ACME challenges and errors of the source. All states
//     are always there.
//   - staple_requests_total: HTTP requests sent, redirects and issuers included.
//   - staple_attempt_failures_total: attempts over all responders of a
//     certificate that failed.
//   - staple_attempts_total{responder,outcome}: how attempts ended at each
//     responder: "fetched" (a new response), "unchanged", "revoked", "loaded" (a
//     response from the store or the source, without a request), or a [staple.Reason].
//     If one responder failed and the next did not, both count, unless that says for
//     the first time that the certificate is revoked.
//   - staple_fetch_duration_seconds{responder}: a histogram of how long the
//     exchanges took that brought a response.
//   - staple_store_writes_total{outcome}: "stored" or "failed", both always
//     there.
//   - staple_expirations_total: responses that expired before another came.
//   - staple_events_dropped_total: events and log records that slow event functions
//     or loggers made the Stapler drop. staple_attempts_total, staple_fetch_duration_seconds,
//     staple_store_writes_total and staple_expirations_total lack them.
//
// # Cardinality
//
// No label names a certificate; for one of them there is the statuspage
// package. responder is the host of the URL, with its port if it has one, or
// "none" or "invalid": some CAs put something else into the path for each
// certificate. Of a host of more than 64 bytes it is the end. The counters of a
// responder go a day or two after the last certificate that named it was dropped:
// see [staple.Stapler.Forget]. There are 6 states and some 40 reasons.
//
// # Cost
//
// A handshake costs nothing more. A scrape calls Status, from memory and in
// time linear in the certificates: some 3 µs and 1 KB for each, and 15 µs and
// 6 KB where it has to be parsed, as its source kept no Leaf or it was not
// served since its last refresh. For 10,000 that is 0.03 to 0.15 s.
//
// # Several Staplers
//
// In one registry each needs a label of its own:
//
//	prometheus.WrapRegistererWith(prometheus.Labels{"stapler": "api"}, reg).MustRegister(metrics)
//
// Collectors may be used concurrently, and after Close too.
package promstaple

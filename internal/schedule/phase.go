package schedule

// A Phase is what is being done about an item.
type Phase uint8

const (
	// Resting: nothing is planned.
	Resting Phase = iota
	// Planned: an attempt is due at a time.
	Planned
	// Preparing: the driver reads the certificate, the store, the lease.
	Preparing
	// Deferred: another process has the lease. The item is due again soon.
	Deferred
	// Queued: the item waits for a place at a responder. No request is out.
	Queued
	// Asking: one request or more are out.
	Asking
	// StandingBy: the attempt failed, and all responders of the item fail. It is
	// prepared again when one recovers, or when it is the next probe.
	StandingBy
	// Gone: removed.
	Gone
)

var phaseNames = [...]string{"resting", "planned", "preparing", "deferred", "queued", "asking", "standing by", "gone"}

// String returns the name of the phase, in lower case.
func (p Phase) String() string { return name(phaseNames[:], int(p)) }

// UnderWay reports whether an attempt has begun and not ended.
func (p Phase) UnderWay() bool { return p >= Preparing && p <= Asking }

// phases is a set of phases.
type phases uint16

func set(all ...Phase) (s phases) {
	for _, p := range all {
		s |= 1 << p
	}
	return s
}

func (s phases) has(p Phase) bool { return s&(1<<p) != 0 }

// follows says what may follow what. A phase that follows itself only changes
// its due time, or the queue.
var follows = [...]phases{
	Resting:    set(Preparing, Gone),
	Planned:    set(Planned, Preparing, Gone),
	Preparing:  set(Resting, Planned, Deferred, Queued, StandingBy, Gone),
	Deferred:   set(Deferred, Planned, Preparing, Gone),
	Queued:     set(Queued, Planned, Asking, StandingBy, Gone),
	Asking:     set(Asking, Planned, Queued, StandingBy, Gone),
	StandingBy: set(Planned, Preparing, Gone),
	Gone:       set(),
}

// A Need is whether there is anything to do for an item.
type Need uint8

const (
	// Unread: the certificate was not read yet.
	Unread Need = iota
	// Wanted: a response is wanted.
	Wanted
	// None: no responder, noRevAvail, self-signed: no response is needed.
	None
	// Off: switched off by configuration.
	Off
	// NoIssuer: the issuer is not found yet. No responder is asked.
	NoIssuer
	// Hopeless: a response is needed and none will come.
	Hopeless
	// LeafExpired: the certificate's notAfter has passed.
	LeafExpired
)

// Open reports whether an attempt may bring a response.
func (n Need) Open() bool { return n != None && n != Off && n != LeafExpired }

var needNames = [...]string{"unread", "wanted", "none", "off", "no issuer", "hopeless", "leaf expired"}

// String returns the name of the need, in lower case.
func (n Need) String() string { return name(needNames[:], int(n)) }

// An Urgency is how much an attempt matters to whoever starts it.
type Urgency uint8

const (
	// Routine: nobody waits.
	Routine Urgency = iota
	// Urgent: somebody waits, a handshake or a Prefetch.
	Urgent
	// Forced: responders that fail are asked all the same, up to the five
	// certificates that show that they still do. An attempt under way is followed
	// by another.
	Forced
	// Unconditional is Forced, and nothing that is known already spares the request:
	// the driver sees to that.
	Unconditional
)

func name(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return "invalid"
}

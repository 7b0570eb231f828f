// Package scenario is the tests of package staple that use nothing but its exported
// names: a Stapler with responders, stores, sources, servers and clients that behave
// well or badly. Tests that see inside it are in the root. There is nothing to
// import here.
package scenario

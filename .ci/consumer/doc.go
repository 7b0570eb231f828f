// Package consumer takes the modules of this repository as others do: from a
// module proxy, in a module of their own. Its tests make the proxy of the tree,
// as a release would tag it, before there is a tag.
package consumer

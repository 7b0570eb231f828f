package ocsphttp

// NewDialer returns the dialer of the default client.
var NewDialer = newDialer

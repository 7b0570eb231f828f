package main

import (
	"context"
	"io"
	"os"

	"github.com/ocspstaple/staple/examples/internal/trial"
)

// process is run in a process of its own, which sig ends.
func process(sig os.Signal) trial.Main {
	return func(ctx context.Context, args []string, out io.Writer) error {
		cmd := command(ctx, args...)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.Cancel = func() error { return cmd.Process.Signal(sig) }
		if err := cmd.Start(); err != nil {
			return err
		}
		err := cmd.Wait()
		if cmd.ProcessState.Success() {
			return nil // and not the end of ctx, which Wait tells of
		}
		return err
	}
}

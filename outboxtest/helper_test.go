package outboxtest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
)

// fakeTB stands for a test that may fail.
type fakeTB struct {
	testing.TB
	failed bool
	text   string
	log    bytes.Buffer
}

func (f *fakeTB) Helper()                  {}
func (f *fakeTB) Context() context.Context { return context.Background() }
func (f *fakeTB) Output() io.Writer        { return &f.log }

func (f *fakeTB) Fatalf(format string, args ...any) {
	f.failed = true
	f.text += fmt.Sprintf(format, args...)
}

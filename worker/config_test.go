package worker

import (
	"log/slog"
	"testing"
	"time"
)

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	logger := slog.New(slog.DiscardHandler)
	for _, test := range []struct{ given, want Config }{
		{Config{Logger: logger}, Config{
			Concurrency: 10, Prefetch: 100, RetryDelay: time.Second, ShutdownTimeout: 30 * time.Second, Logger: logger,
		}},
		{Config{Concurrency: 60_000, RetryDelay: 1, ShutdownTimeout: 2, Logger: logger}, Config{
			Concurrency: 60_000, Prefetch: 65_535, RetryDelay: 1, ShutdownTimeout: 2, Logger: logger,
		}},
	} {
		got := test.given.withDefaults()
		if got.Concurrency != test.want.Concurrency || got.Prefetch != test.want.Prefetch || got.RetryDelay != test.want.RetryDelay ||
			got.ShutdownTimeout != test.want.ShutdownTimeout || got.Logger != test.want.Logger {
			t.Errorf("%+v became %+v, want %+v", test.given, got, test.want)
		}
	}
	if got := (Config{}).withDefaults().Logger; got != slog.Default() {
		t.Errorf("logger %v, want the default one", got)
	}
}

package worker

import (
	"log/slog"
	"reflect"
	"testing"
	"time"
)

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	logger := slog.New(slog.DiscardHandler)
	for _, test := range []struct{ given, want Config }{
		{Config{Logger: logger}, Config{
			Concurrency: 10, Prefetch: 100, ShutdownTimeout: 30 * time.Second, DatabaseTimeout: 30 * time.Second,
			InboxRetention: 30 * 24 * time.Hour, Logger: logger,
			Retries: Retries{Delays: []time.Duration{time.Second, 10 * time.Second, time.Minute, 5 * time.Minute}, MaxAttempts: 5},
		}},
		{Config{
			Concurrency: 60_000, ShutdownTimeout: 2, DatabaseTimeout: 3, InboxRetention: -1, Logger: logger, Retries: Retries{Delays: []time.Duration{0}},
		}, Config{
			Concurrency: 60_000, Prefetch: 65_535, ShutdownTimeout: 2, DatabaseTimeout: 3, InboxRetention: -1, Logger: logger,
			Retries: Retries{Delays: []time.Duration{0}, MaxAttempts: 2},
		}},
	} {
		got := test.given.withDefaults()
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%+v became %+v, want %+v", test.given, got, test.want)
		}
	}
	if got := (Config{}).withDefaults().Logger; got != slog.Default() {
		t.Errorf("logger %v, want the default one", got)
	}
}

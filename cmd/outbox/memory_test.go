package main

import (
	"io"
	"maps"
	"strings"
	"testing"
)

func TestRelayLimitsItsMemory(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		want int64
	}{
		"by default":    {want: 40 << 20},
		"more":          {args: []string{"--relay-memory", "64MiB"}, want: 88 << 20},
		"connections":   {args: []string{"--broker-url", "amqp://127.0.0.1:1", "--broker-connections", "5"}, want: 52 << 20},
		"user's limit":  {env: map[string]string{"GOMEMLIMIT": "off"}},
		"user's growth": {env: map[string]string{"GOGC": "100"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{"OUTBOX_DATABASE_URL": "sqlite:" + sqliteFile(t), "OUTBOX_BROKER_URL": "stdout:"}
			maps.Copy(env, c.env)
			var got int64
			a := &app{
				stdin: strings.NewReader(""), stdout: io.Discard, stderr: t.Output(),
				env:            func(name string) (string, bool) { v, ok := env[name]; return v, ok },
				setMemoryLimit: func(bytes int64) int64 { got = bytes; return 0 },
			}
			if code := a.run(t.Context(), append([]string{"relay", "--once"}, c.args...)); code != 0 {
				t.Fatalf("exit code %d", code)
			}
			if got != c.want {
				t.Errorf("the limit is %d, want %d (0 for none set)", got, c.want)
			}
		})
	}
}

package acceptance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRootNeedsTheUUIDPackageAlone tidies a module that imports all of the root
// module's packages, the suites for third parties included, and looks at what it
// then has to trust.
func TestRootNeedsTheUUIDPackageAlone(t *testing.T) {
	root, err := filepath.Abs("..")
	must(t, err)
	dir := t.TempDir()
	write := func(name, text string) { must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)) }
	write("go.mod", "module scratch\n\ngo 1.25.0\n\nrequire github.com/outbox-go/outbox v0.0.0\n\nreplace github.com/outbox-go/outbox => "+root+"\n")
	const base = "github.com/outbox-go/outbox"
	var imports strings.Builder
	for _, name := range []string{
		"", "/relay", "/worker", "/store", "/store/memstore", "/admin", "/broker/membroker", "/broker/stdout", "/storetest", "/brokertest", "/model",
		"/model", "/store/track",
	} {
		imports.WriteString("\t_ \"" + base + name + "\"\n")
	}
	write("main.go", "package main\n\nimport (\n"+imports.String()+")\n\nfunc main() {}\n")
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("mod", "tidy")
	run("build", "./...")
	sums, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	must(t, err)
	for line := range strings.Lines(string(sums)) {
		if !strings.HasPrefix(line, "github.com/google/uuid ") {
			t.Errorf("go.sum names %s", line)
		}
	}
}

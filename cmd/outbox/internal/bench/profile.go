package bench

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
)

// profiler writes the profiles of a part of the run to a folder.
type profiler struct {
	folder string
	cpu    *os.File
	rate   int
}

// newProfiler returns nil, which is usable, if folder is empty. Allocations count from
// start on.
func newProfiler(folder string) (*profiler, error) {
	if folder == "" {
		return nil, nil
	}
	if err := os.MkdirAll(folder, 0o777); err != nil { //nolint:gosec // as others make folders
		return nil, err
	}
	p := &profiler{folder: folder, rate: runtime.MemProfileRate}
	runtime.MemProfileRate = 0
	return p, nil
}

// start begins to measure.
func (p *profiler) start() (err error) {
	if p == nil {
		return nil
	}
	runtime.MemProfileRate = p.rate
	if p.cpu, err = os.Create(filepath.Join(p.folder, "cpu.pprof")); err != nil {
		return err
	}
	return pprof.StartCPUProfile(p.cpu)
}

// stop writes cpu.pprof, heap.pprof (what is in use) and allocs.pprof.
func (p *profiler) stop() error {
	if p == nil || p.cpu == nil {
		return nil
	}
	pprof.StopCPUProfile()
	err := p.cpu.Close()
	p.cpu = nil
	runtime.GC() // so that both are up to date
	for _, name := range []string{"heap", "allocs"} {
		err = errors.Join(err, p.write(name))
	}
	return err
}

func (p *profiler) write(name string) error {
	file, err := os.Create(filepath.Join(p.folder, name+".pprof"))
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup(name).WriteTo(file, 0), file.Close())
}

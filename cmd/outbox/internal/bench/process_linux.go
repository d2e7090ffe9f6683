package bench

import (
	"os/exec"
	"syscall"
)

// endWithThis has the process end when this one does, even if it is killed.
func endWithThis(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }

//go:build !linux

package testenv

import (
	"errors"
	"syscall"
)

const (
	supported   = false
	dirVariable = "OUTBOX_TESTENV_DIR"
)

func signalAll(string, syscall.Signal) int { return 0 }

func killAll(string) error { return errors.ErrUnsupported }

func removeSharedMemory(string) {}

// Package bunoutbox publishes bun models when they are saved.
package bunoutbox

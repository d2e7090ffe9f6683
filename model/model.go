// Package model publishes types when they are saved.
package model

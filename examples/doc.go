// Package examples holds whole programs, each in a folder of its own, that the
// documentation shows. Its tests build and run them.
package examples

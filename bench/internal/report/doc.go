// Package report keeps what the benchmarks have measured, computes medians, spreads and
// ratios from it, and writes docs/benchmarks.md. What is measured, by which command and
// against which target, stands in [Sections].
package report

// Package proc remembers processes by number and start time, so that a clean-up
// after a crash ends what a lab has started and never a stranger.
package proc

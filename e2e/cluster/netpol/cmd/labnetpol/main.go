// Command labnetpol will enforce NetworkPolicy on a lab's node.
package main

func main() { select {} }

"""What the benchmarks need to run the tools that medunet is compared with."""

"""Speed side by side with the peers: one file per workload, run by `make bench`."""

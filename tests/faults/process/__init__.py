"""Faults of the service's own processes, signals, disks, descriptors and clock, each met under steady load."""

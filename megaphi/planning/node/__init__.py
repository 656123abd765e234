"""The health of a node before a job starts on it: its GPUs, links, network ports, disks and clock."""

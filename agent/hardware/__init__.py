"""What the box has: read from /proc and /sys under a root that tests can replace."""

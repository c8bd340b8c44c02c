"""What `tampu doctor` looks at, and what it says."""

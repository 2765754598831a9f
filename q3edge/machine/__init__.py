"""Facts of this machine: CPU, memory, speed, installed packages."""
